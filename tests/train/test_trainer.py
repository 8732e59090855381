"""A run is the same whatever it is split over, and goes on after a stop as if nothing had happened."""

from pathlib import Path

import numpy as np
import pytest

from tests.train.conftest import NUM_STEPS, RESUMED, STOP_STEP, Runs
from tests.train.probe import Outcome, events, metrics
from tests.train.tiny import LENGTH, tiny
from train.schedule import learning_rate

NOISE = 5e-6  # of fp32 sums in another order, after eight steps


def global_rows(outcomes: list[Outcome]) -> list[list[tuple[int, ...]]]:
    """The rows that all ranks read in each step, in the order of ranks."""
    return [[tuple(row) for rows in ranks for row in rows] for ranks in zip(*(o.rows for o in outcomes), strict=True)]


def column(runs: Runs, name: str, metric: str) -> list[float]:
    return [row[metric] for row in metrics(runs.root, name)]


def test_the_global_batch_of_a_step_does_not_depend_on_the_number_of_ranks(stages: Runs, splits: Runs) -> None:
    one, two = splits.outcomes["one-rank"], stages.outcomes["zero2-fp32"]
    assert [len(rows) for rows in global_rows(one)] == [8] * NUM_STEPS
    assert global_rows(two) == global_rows(one)
    assert two[0].rows[0].shape == (4, LENGTH)


def test_two_ranks_train_as_one_does(stages: Runs, splits: Runs) -> None:
    for two, one in (("zero2-fp32", "one-rank"), ("documents", "one-rank-documents")):
        for metric in ("train/loss", "train/ce_loss", "train/z_loss", "optim/grad_norm"):
            assert column(splits, two, metric) == pytest.approx(column(splits, one, metric), abs=NOISE, rel=NOISE)
    together = column(stages, "zero2-fp32", "train/loss")
    assert column(splits, "documents", "train/loss") != pytest.approx(together, rel=1e-4)


def test_stages_train_alike(stages: Runs) -> None:
    expected = column(stages, "zero0", "train/loss")
    for stage in (1, 2, 3):
        assert column(stages, f"zero{stage}-fp32", "train/loss") == pytest.approx(expected, abs=NOISE)
        assert column(stages, f"zero{stage}-bf16", "train/loss") == pytest.approx(expected, abs=5e-3)


def test_training_learns(stages: Runs) -> None:
    losses = column(stages, "zero2-fp32", "train/ce_loss")
    assert losses[-1] < losses[0] - 0.1


def test_position_metrics_do_not_depend_on_ranks_or_micro_batches(stages: Runs, splits: Runs) -> None:
    for two, one in zip(metrics(stages.root, "zero2-fp32"), metrics(splits.root, "one-rank"), strict=True):
        names = {name for name in one if name.startswith("positions/")}
        assert names == {name for name in two if name.startswith("positions/")}
        due = one["step"] == 1 or one["step"] % 4 == 0
        assert ("positions/layer_01/std" in names) == ("positions/layer_01/range" in names) == due
        for name in names:
            noise = 1e-3 if name.endswith("gradient_slope") else NOISE  # a difference of losses over a small step
            assert two[name] == pytest.approx(one[name], abs=noise), name


@pytest.mark.parametrize("name", RESUMED)
def test_a_stopped_run_goes_on_to_the_bit(stages: Runs, name: str) -> None:
    assert metrics(stages.root, f"{name}-stopped") == metrics(stages.root, name)
    names = (name, f"{name}-stopped", f"{name}-stopped/again")
    for undisturbed, first, second in zip(*(stages.outcomes[run] for run in names), strict=True):
        assert [len(first.rows), len(second.rows)] == [STOP_STEP, NUM_STEPS - STOP_STEP]
        np.testing.assert_array_equal(first.rows + second.rows, undisturbed.rows)
        assert first.draws + second.draws == undisturbed.draws  # each rank's own generator goes on too
        assert second.steps == NUM_STEPS  # and so does the state of callbacks


def test_a_stopped_run_with_data_workers_goes_on_to_the_bit(stages: Runs) -> None:
    assert metrics(stages.root, "workers-stopped") == metrics(stages.root, "zero2-fp32")


def test_a_run_that_crashed_past_its_checkpoint_has_every_step_once(stages: Runs, crashes: Runs) -> None:
    assert crashes.outcomes["crashed"][0].reason == "broken after step 5"
    assert [len(crashes.outcomes[name][0].rows) for name in ("crashed", "crashed/again")] == [5, NUM_STEPS - 4]
    assert metrics(crashes.root, "crashed") == metrics(stages.root, "zero2-fp32")


def test_a_signal_to_one_rank_stops_all_after_the_same_step(stages: Runs) -> None:
    main, other = stages.outcomes["zero2-fp32-stopped"]
    assert other.reason == "SIGTERM"
    assert main.reason == "signal on another rank"
    assert len(main.rows) == len(other.rows) == STOP_STEP


def test_events_say_how_a_run_went(stages: Runs, crashes: Runs) -> None:
    assert events(stages.root, "zero2-fp32-stopped") == [
        {"event": "start", "step": 0, "world_size": 2, "zero_stage": 2},
        {"event": "checkpoint", "step": 3, "folder": "step-0000003"},
        {"event": "stop", "step": 3, "reason": "signal", "exit_code": 75, "detail": "signal on another rank"},
        {"event": "resume", "step": 3, "world_size": 2, "zero_stage": 2},
        {"event": "checkpoint", "step": 8, "folder": "step-0000008"},
        {"event": "stop", "step": 8, "reason": "finished", "exit_code": 0},
    ]
    kinds = [(event["event"], event["step"]) for event in events(crashes.root, "crashed")]
    saved = [("checkpoint", step) for step in (2, 4, 6, 8)]
    assert kinds == [("start", 0), *saved[:2], ("resume", 4), *saved[2:], ("stop", 8)]


def test_metrics_have_the_names_that_people_rely_on(stages: Runs) -> None:
    config = tiny(stages.root)
    rows = metrics(stages.root, "zero2-fp32")
    assert [row["step"] for row in rows] == list(range(1, NUM_STEPS + 1))
    assert [row["tokens"] for row in rows] == [step * 8 * LENGTH for step in range(1, NUM_STEPS + 1)]
    for row in rows:
        assert row["train/loss"] == pytest.approx(row["train/ce_loss"] + row["train/z_loss"], rel=1e-6)
        assert row["optim/lr"] == learning_rate(row["step"], config.optimizer.lr, config.schedule)
        assert row["optim/skipped"] == 0
        assert len(row.get("positions/layer_01/std", [0, 0])) == config.model.num_heads


def test_the_loss_is_a_mean_over_valid_tokens_or_over_all_as_published(stages: Runs, splits: Runs) -> None:
    all_rows = global_rows(splits.outcomes["one-rank"])
    masked_rows = [sum(row[:40].count(7) == 40 for row in rows) for rows in all_rows]
    assert 0 < sum(masked_rows) < 8 * NUM_STEPS  # the repetition filter leaves ranks unequal numbers of valid tokens
    row, published = metrics(stages.root, "zero2-fp32")[0], metrics(splits.root, "all-tokens")[0]
    share = (8 - masked_rows[0]) / 8 * (LENGTH - 1) / LENGTH
    assert published["train/ce_loss"] == row["train/ce_loss"]  # always per valid token
    assert published["train/loss"] == pytest.approx(row["train/loss"] * share, rel=1e-6)


def test_too_many_dropped_updates_in_a_row_end_the_run(refusals: Runs) -> None:
    for rank in refusals.outcomes["diverging"]:
        assert rank.reason.startswith("the gradients of 3 updates in a row, up to step 4, were not finite")
    rows = metrics(refusals.root, "diverging")
    assert [row["optim/skipped"] for row in rows] == [0, 1, 2]
    assert rows[-1]["optim/grad_norm"] is None  # JSON has no number that is not finite


def test_a_token_outside_the_vocabulary_is_refused_before_the_model_sees_it(refusals: Runs) -> None:
    reason = refusals.outcomes["vocabulary"][0].reason
    assert reason.startswith("the data holds token id 127, but model.vocab_size=64: ")
    assert refusals.outcomes["vocabulary"][0].rows[0].size == 0


def test_garbage_is_collected_between_steps_only(stages: Runs) -> None:
    assert stages.outcomes["zero2-fp32"][0].collects == [False] * NUM_STEPS + [True]


def test_a_run_leaves_nothing_outside_its_folder(stages: Runs) -> None:
    assert {path.name for path in stages.root.iterdir()} == {"runs", "tokens", "tokenizer.json"}
    folder: Path = stages.root / "runs" / "zero2-fp32-stopped"
    assert {path.name for path in folder.iterdir()} == {
        ".lock",
        "config.yaml",
        "metrics.jsonl",
        "events.jsonl",
        "checkpoints",
        "probes",
    }
