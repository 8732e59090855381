"""Validation losses: what is measured, that it disturbs no training, and that stops and resumes lose none of it."""

import math
import os
import signal
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from model.loss import LossSums
from model.transformer import Olmo2
from model.weights import initialise, random_weights
from tests.distributed import run_ranks
from tests.train.probe import Outcome, events, metrics, start
from tests.train.tiny import LENGTH, VOCAB_SIZE, tiny, write_tokens
from train.callbacks.callback import Callback, TrainerInterface
from train.config import RunConfig
from train.distributed import Ranks
from train.engine.config import Precision
from train.engine.engine import Engine, MicroBatch
from train.evaluation.base import evaluation_tasks
from train.evaluation.probes import Probes
from train.evaluation.validation_loss import ValidationLoss, buckets, metrics_of

pytestmark = pytest.mark.system
NUM_ROWS = {"alpha": 5, "beta": 3}  # split over two ranks and micro-batches of two, neither of which they fill
INTERVAL, STOP_STEP, LAST_STEP = 3, 6, 8
RUNG = 4  # a stop_step between two evaluations
NOISE = 1e-6  # relative: fp32 sums in another order


def write_validation(root: Path) -> None:
    """Rows of two sources beside the training files; one of them is so repetitive that the filter masks it."""
    generator = np.random.default_rng(11)
    names = []
    for source, num_rows in NUM_ROWS.items():
        rows = generator.integers(1, VOCAB_SIZE, (num_rows, LENGTH))
        rows[0, :40] = 7
        rows[-1, -1] = VOCAB_SIZE - 1
        name = f"validation/{source}/part-0.npy"
        (root / "tokens" / name).parent.mkdir(parents=True)
        rows.astype("<u4").tofile(root / "tokens" / name)
        names.append(name)
    np.full((2, LENGTH), 7, "<u4").tofile(root / "tokens" / "masked.npy")
    (root / "tokens" / "masked.txt").write_text("masked.npy\n")
    (root / "tokens" / "validation.txt").write_text("".join(f"{name}\n" for name in names))


def configured(root: Path, name: str, **changes: Any) -> RunConfig:
    evaluated = {
        "data__validation__file_list": str(root / "tokens" / "validation.txt"),
        "data__validation__rows": 10,
        "evaluation__interval": INTERVAL,
        "evaluation__micro_batch_size": 2,
        "max_steps": LAST_STEP,
    }
    return tiny(root, name=name, **{**evaluated, **changes})


class StopInEvaluation(Callback):
    """Sends a signal to one rank while the evaluation of a step is under way."""

    def __init__(self, step: int) -> None:
        self._step = step

    def on_start(self, trainer: TrainerInterface) -> None:
        trainer.engine.model.register_forward_pre_hook(lambda *_: self._maybe(trainer))

    def _maybe(self, trainer: TrainerInterface) -> None:
        if trainer.step == self._step and not torch.is_grad_enabled() and trainer.ranks.rank == 1:
            os.kill(os.getpid(), signal.SIGTERM)


def stopping(evaluate: Any, ranks: Ranks) -> Any:
    """Returns `evaluate` with a signal to one rank before it."""

    def evaluate_and_stop(engine: Engine, micro: MicroBatch) -> LossSums:
        if ranks.rank == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        sums: LossSums = evaluate(engine, micro)
        return sums

    return evaluate_and_stop


def run_on_two(ranks: Ranks, root: Path) -> dict[str, Outcome]:
    still = {"optimizer__lr": 0.0, "max_steps": 1}
    seen = {}
    for stage in range(4):
        seen[f"zero{stage}"] = start(configured(root, f"zero{stage}", engine__zero_stage=stage, **still), ranks)
    bf16 = {"engine__zero_stage": 3, "engine__precision": Precision.bf16}
    seen["zero3-bf16"] = start(configured(root, "zero3-bf16", **bf16, **still), ranks)
    seen["apart"] = start(configured(root, "apart", mask_documents=True, **still), ranks)
    seen["undisturbed"] = start(configured(root, "undisturbed"), ranks)
    seen["without"] = start(configured(root, "without", evaluation__enabled=False), ranks)
    seen["last-only"] = start(configured(root, "last-only", evaluation__interval=None), ranks)
    for name, step in (("stopped", STOP_STEP), ("stopped-at-end", LAST_STEP)):
        config = configured(root, name)
        seen[name] = start(config, ranks, callbacks=[StopInEvaluation(step)])
        seen[f"{name}/again"] = start(config, ranks)
        seen[f"{name}/finished"] = start(config, ranks)
    for name, stop_step in (("", RUNG), ("/repeated", RUNG), ("/again", None)):
        seen[f"rung{name}"] = start(configured(root, "rung", stop_step=stop_step), ranks)
    config = configured(root, "stopped-twice")
    seen["stopped-twice"] = start(config, ranks, callbacks=[StopInEvaluation(STOP_STEP)])
    with mock.patch.object(Engine, "evaluate", stopping(Engine.evaluate, ranks)):  # within the repeated evaluation
        seen["stopped-twice/repeated"] = start(config, ranks)
    seen["stopped-twice/again"] = start(config, ranks)
    masked = str(root / "tokens" / "masked.txt")
    seen["masked"] = start(configured(root, "masked", data__validation__file_list=masked), ranks)
    seen["vocabulary"] = start(configured(root, "vocabulary", model__vocab_size=VOCAB_SIZE - 1), ranks)
    return seen


def run_on_one(ranks: Ranks, root: Path) -> dict[str, Outcome]:
    still = {"optimizer__lr": 0.0, "max_steps": 1}
    return {"one-rank": start(configured(root, "one-rank", evaluation__micro_batch_size=3, **still), ranks)}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("evaluation")
    write_tokens(root / "tokens")
    write_validation(root)
    return root


@pytest.fixture(scope="module")
def two(root: Path) -> list[dict[str, Outcome]]:
    return run_ranks(run_on_two, 2, root)


@pytest.fixture(scope="module")
def one(root: Path) -> dict[str, Outcome]:
    return dict(run_ranks(run_on_one, 1, root)[0])


def evaluated(root: Path, name: str) -> dict[int, dict[str, float]]:
    """Returns the evaluation metrics of a run by step."""
    rows = {row["step"]: {key: row[key] for key in row if key.startswith("eval/")} for row in metrics(root, name)}
    return {step: row for step, row in rows.items() if row}


def expected_metrics(root: Path) -> dict[str, float]:
    """Returns the metrics of the fresh model, computed with torch's cross entropy row by row."""
    config = configured(root, "expected")
    model = Olmo2(config.model, config.positions)
    initialise(model, random_weights(config.model, config.positions, config.seed), "cpu")
    losses, found = {}, {}
    for source, num_rows in NUM_ROWS.items():
        tokens = np.fromfile(root / f"tokens/validation/{source}/part-0.npy", "<u4").reshape(num_rows, LENGTH)
        rows = torch.from_numpy(tokens.astype(np.int64))[1:]  # the filter masks the first
        with torch.no_grad():
            logits = model(rows).double()
        losses[source] = F.cross_entropy(logits[:, :-1].flatten(0, 1), rows[:, 1:].flatten(), reduction="none").view(
            len(rows), -1
        )
    everything = torch.cat(list(losses.values()))
    parts = {"eval": everything, **{f"eval/source/{source}": loss for source, loss in losses.items()}}
    for name, loss in parts.items():
        found[f"{name}/loss"] = float(loss.mean())
        found[f"{name}/perplexity"] = math.exp(loss.mean())
    for first, stop in ((0, 3), (3, 6), (6, 12), (12, 24), (24, 48)):
        found[f"eval/position/{first}-{stop}/loss"] = float(everything[:, first:stop].mean())
    return found


@pytest.mark.parametrize("name", ["zero0", "zero1", "zero2", "zero3", "one-rank"])
def test_metrics_are_torchs_cross_entropy_at_every_stage_and_on_any_ranks(
    two: Any, one: Any, root: Path, name: str
) -> None:
    [(step, found)] = evaluated(root, name).items()
    assert step == 1 and found == pytest.approx(expected_metrics(root), rel=NOISE)


def test_bf16_evaluates_with_its_own_noise(two: Any, root: Path) -> None:
    assert evaluated(root, "zero3-bf16")[1] == pytest.approx(expected_metrics(root), rel=2e-2)


def test_documents_are_kept_apart_where_training_keeps_them_apart(two: Any, root: Path) -> None:
    apart = evaluated(root, "apart")[1]
    assert apart.keys() == expected_metrics(root).keys()


def test_evaluations_change_nothing_that_is_learned(two: Any, root: Path) -> None:
    undisturbed, without = metrics(root, "undisturbed"), metrics(root, "without")
    assert not any(key.startswith("eval/") for row in without for key in row)
    trained = [{key: row[key] for key in row if not key.startswith("eval/")} for row in undisturbed]
    assert trained == without
    assert [rank["undisturbed"].draws for rank in two] == [rank["without"].draws for rank in two]


def test_a_run_is_evaluated_at_the_interval_and_at_its_end(two: Any, root: Path) -> None:
    assert list(evaluated(root, "undisturbed")) == [3, 6, 8]
    assert list(evaluated(root, "last-only")) == [8]
    assert evaluated(root, "last-only")[8] == evaluated(root, "undisturbed")[8]


@pytest.mark.parametrize(("name", "step"), [("stopped", STOP_STEP), ("stopped-at-end", LAST_STEP)])
def test_a_stop_within_an_evaluation_saves_that_step_and_the_next_start_evaluates_it(
    two: Any, root: Path, name: str, step: int
) -> None:
    first, *_ = stops = [event for event in events(root, name) if event["event"] == "stop"]
    assert (first["reason"], first["step"]) == ("signal", step)
    assert [(stop["reason"], stop["step"]) for stop in stops[1:]] == [("finished", LAST_STEP)]
    saved = [event["step"] for event in events(root, name) if event["event"] == "checkpoint"]
    assert saved[0] == step
    assert evaluated(root, name) == evaluated(root, "undisturbed")
    assert [rank[f"{name}/finished"].rows for rank in two] == [[], []]  # nothing was left to do


def test_a_run_stops_at_its_stop_step_evaluated_and_then_goes_on_to_the_bit(two: Any, root: Path) -> None:
    stops = [(event["reason"], event["step"]) for event in events(root, "rung") if event["event"] == "stop"]
    assert stops == [("stop_step", RUNG), ("finished", LAST_STEP)]
    assert [len(two[0][f"rung{name}"].rows) for name in ("", "/repeated", "/again")] == [RUNG, 0, LAST_STEP - RUNG]
    losses = evaluated(root, "rung")
    assert {step: losses[step] for step in losses if step != RUNG} == evaluated(root, "undisturbed")
    trained = [{key: row[key] for key in row if not key.startswith("eval/")} for row in metrics(root, "rung")]
    assert trained == metrics(root, "without") and list(losses) == [3, RUNG, 6, 8]


def test_a_second_stop_within_the_repeated_evaluation_loses_nothing(two: Any, root: Path) -> None:
    stops = [(event["reason"], event["step"]) for event in events(root, "stopped-twice") if event["event"] == "stop"]
    assert stops == [("signal", STOP_STEP)] * 2 + [("finished", LAST_STEP)]
    assert evaluated(root, "stopped-twice") == evaluated(root, "undisturbed")


def test_rows_that_are_all_masked_are_refused(two: Any) -> None:
    assert two[0]["masked"].reason.startswith("the repetition filter masks every validation row")


def test_validation_tokens_outside_the_vocabulary_are_refused(two: Any) -> None:
    for rank in two:
        reason = rank["vocabulary"].reason
        assert reason.startswith("the validation rows hold token id 127, but model.vocab_size=127: ")


def test_buckets_double_and_cover_the_row() -> None:
    assert buckets(4096) == [(0, 256), (256, 512), (512, 1024), (1024, 2048), (2048, 4096)]
    assert buckets(48) == [(0, 3), (3, 6), (6, 12), (12, 24), (24, 48)]
    assert buckets(4) == [(0, 1), (1, 2), (2, 4)]
    for length in (2, 3, 17, 1000):
        covered = [index for first, stop in buckets(length) for index in range(first, stop)]
        assert covered == list(range(length))


def test_a_source_or_a_range_without_a_label_has_no_metric() -> None:
    by_index = torch.tensor([[4.0, 0.0, 0.0, 0.0], [2.0, 0.0, 0.0, 0.0]], dtype=torch.float64)
    by_source = torch.tensor([[4.0, 0.0], [2.0, 0.0]], dtype=torch.float64)
    found = metrics_of(by_index, by_source, ("full", "empty"))
    assert found == {
        "eval/loss": 2.0,
        "eval/perplexity": math.exp(2.0),
        "eval/source/full/loss": 2.0,
        "eval/source/full/perplexity": math.exp(2.0),
        "eval/position/0-1/loss": 2.0,
    }


def test_a_task_is_found_by_being_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import train.evaluation

    assert evaluation_tasks() == [Probes, ValidationLoss]
    (tmp_path / "always_one.py").write_text(
        "from train.evaluation.base import EvaluationTask\n"
        "class AlwaysOne(EvaluationTask):\n"
        "    @classmethod\n"
        "    def build(cls, config): return cls()\n"
        "    def run(self, engine, ranks, stop_requested): return {'eval/one': 1.0}\n"
    )
    monkeypatch.setattr(train.evaluation, "__path__", [*train.evaluation.__path__, str(tmp_path)])
    found = {kind.__name__: kind for kind in evaluation_tasks()}
    assert found.keys() == {"AlwaysOne", "Probes", "ValidationLoss"}
    task: Any = found["AlwaysOne"].build(tiny(tmp_path))
    assert task.run(None, None, None) == {"eval/one": 1.0}
