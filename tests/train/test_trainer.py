"""A run is the same whatever it is split over, and goes on after a stop as if nothing had happened."""

from pathlib import Path

import numpy as np
import pytest

from report.run_folder import FINISHED
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


def test_the_global_batch_of_a_step_does_not_depend_on_the_number_of_ranks(runs: Runs) -> None:
    one = global_rows([runs.one["zero2-fp32"]])
    assert [len(rows) for rows in one] == [8] * NUM_STEPS
    assert global_rows([rank["zero2-fp32"] for rank in runs.two]) == one
    assert runs.two[0]["zero2-fp32"].rows[0].shape == (4, LENGTH)


def test_two_ranks_train_as_one_does(runs: Runs) -> None:
    for two, one in (("zero2-fp32", "one-rank"), ("documents", "one-rank-documents")):
        for metric in ("train/loss", "train/ce_loss", "train/z_loss", "optim/grad_norm"):
            assert column(runs, two, metric) == pytest.approx(column(runs, one, metric), abs=NOISE, rel=NOISE)
    assert column(runs, "documents", "train/loss") != pytest.approx(column(runs, "zero2-fp32", "train/loss"), rel=1e-4)


def test_stages_train_alike(runs: Runs) -> None:
    expected = column(runs, "zero0", "train/loss")
    for stage in (1, 2, 3):
        assert column(runs, f"zero{stage}-fp32", "train/loss") == pytest.approx(expected, abs=NOISE)
        assert column(runs, f"zero{stage}-bf16", "train/loss") == pytest.approx(expected, abs=5e-3)


def test_training_learns(runs: Runs) -> None:
    losses = column(runs, "zero2-fp32", "train/ce_loss")
    assert losses[-1] < losses[0] - 0.1


def test_position_metrics_do_not_depend_on_ranks_or_micro_batches(runs: Runs) -> None:
    for two, one in zip(metrics(runs.root, "zero2-fp32"), metrics(runs.root, "one-rank"), strict=True):
        names = {name for name in one if name.startswith("positions/")}
        assert names == {name for name in two if name.startswith("positions/")}
        due = one["step"] == 1 or one["step"] % 2 == 0
        assert ("positions/layer_01/std" in names) == ("positions/layer_02/range" in names) == due
        for name in names:
            assert two[name] == pytest.approx(one[name], abs=NOISE), name


@pytest.mark.parametrize("name", RESUMED)
def test_a_stopped_run_goes_on_to_the_bit(runs: Runs, name: str) -> None:
    assert metrics(runs.root, f"{name}-stopped") == metrics(runs.root, name)
    for rank in runs.two:
        first, second = rank[f"{name}-stopped"], rank[f"{name}-stopped/again"]
        assert [len(first.rows), len(second.rows)] == [STOP_STEP, NUM_STEPS - STOP_STEP]
        np.testing.assert_array_equal(first.rows + second.rows, rank[name].rows)
        assert first.draws + second.draws == rank[name].draws  # each rank's own generator goes on too
        assert second.steps == NUM_STEPS  # and so does the state of callbacks


def test_a_stopped_run_with_data_workers_goes_on_to_the_bit(runs: Runs) -> None:
    assert metrics(runs.root, "workers-stopped") == metrics(runs.root, "zero2-fp32")


def test_a_run_that_crashed_past_its_checkpoint_has_every_step_once(runs: Runs) -> None:
    assert runs.two[0]["crashed"].reason == "broken after step 5"
    assert [len(runs.two[0][name].rows) for name in ("crashed", "crashed/again")] == [5, NUM_STEPS - 4]
    assert metrics(runs.root, "crashed") == metrics(runs.root, "zero2-fp32")


def test_a_signal_to_one_rank_stops_all_after_the_same_step(runs: Runs) -> None:
    main, other = (rank["zero2-fp32-stopped"] for rank in runs.two)
    assert other.reason == "SIGTERM"
    assert main.reason == "signal on another rank"
    assert len(main.rows) == len(other.rows) == STOP_STEP


def test_events_tell_what_became_of_a_run(runs: Runs) -> None:
    assert events(runs.root, "zero2-fp32-stopped") == [
        {"event": "start", "step": 0, "world_size": 2, "zero_stage": 2},
        {"event": "checkpoint", "step": 3, "folder": "step-0000003"},
        {"event": "stop", "step": 3, "reason": "signal on another rank"},
        {"event": "resume", "step": 3, "world_size": 2, "zero_stage": 2},
        {"event": "checkpoint", "step": 8, "folder": "step-0000008"},
        {"event": "stop", "step": 8, "reason": FINISHED},
    ]
    kinds = [(event["event"], event["step"]) for event in events(runs.root, "crashed")]
    saved = [("checkpoint", step) for step in (2, 4, 6, 8)]
    assert kinds == [("start", 0), *saved[:2], ("resume", 4), *saved[2:], ("stop", 8)]


def test_metrics_have_the_names_that_people_rely_on(runs: Runs) -> None:
    config = tiny(runs.root)
    rows = metrics(runs.root, "zero2-fp32")
    assert [row["step"] for row in rows] == list(range(1, NUM_STEPS + 1))
    assert [row["tokens"] for row in rows] == [step * 8 * LENGTH for step in range(1, NUM_STEPS + 1)]
    for row in rows:
        assert row["train/loss"] == pytest.approx(row["train/ce_loss"] + row["train/z_loss"], rel=1e-6)
        assert row["optim/lr"] == learning_rate(row["step"], config.optimizer.lr, config.schedule)
        assert row["optim/skipped"] == 0
        assert len(row.get("positions/layer_01/std", [0, 0])) == config.model.num_heads


def test_the_loss_is_a_mean_over_valid_tokens_or_over_all_as_published(runs: Runs) -> None:
    masked_rows = [sum(row[:40].count(7) == 40 for row in rows) for rows in global_rows([runs.one["zero2-fp32"]])]
    assert 0 < sum(masked_rows) < 8 * NUM_STEPS  # the repetition filter leaves ranks unequal numbers of valid tokens
    row, published = metrics(runs.root, "zero2-fp32")[0], metrics(runs.root, "all-tokens")[0]
    share = (8 - masked_rows[0]) / 8 * (LENGTH - 1) / LENGTH
    assert published["train/ce_loss"] == row["train/ce_loss"]  # always per valid token
    assert published["train/loss"] == pytest.approx(row["train/loss"] * share, rel=1e-6)


def test_too_many_dropped_updates_in_a_row_end_the_run(runs: Runs) -> None:
    for rank in runs.two:
        assert rank["diverging"].reason.startswith("the gradients of 3 updates in a row, up to step 4, were not finite")
    rows = metrics(runs.root, "diverging")
    assert [row["optim/skipped"] for row in rows] == [0, 1, 2]
    assert rows[-1]["optim/grad_norm"] is None  # JSON has no word for what is not finite


def test_a_token_outside_the_vocabulary_is_refused_before_the_model_sees_it(runs: Runs) -> None:
    reason = runs.two[0]["vocabulary"].reason
    assert reason.startswith("the data holds token id 127, but model.vocab_size=64: ")
    assert runs.two[0]["vocabulary"].rows[0].size == 0


def test_garbage_is_collected_between_steps_only(runs: Runs) -> None:
    assert runs.two[0]["zero2-fp32"].collects == [False] * NUM_STEPS + [True]


def test_a_run_leaves_nothing_outside_its_folder(runs: Runs) -> None:
    assert {path.name for path in runs.root.iterdir()} == {"runs", "tokens", "tokenizer.json"}
    folder: Path = runs.root / "runs" / "zero2-fp32-stopped"
    assert {path.name for path in folder.iterdir()} == {
        ".lock",
        "config.yaml",
        "metrics.jsonl",
        "events.jsonl",
        "checkpoints",
        "probes",
    }
