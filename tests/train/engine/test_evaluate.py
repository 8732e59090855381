"""An evaluation gives the loss of the weights in training, and leaves training as it was, at every ZeRO stage."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from model.attention import Documents
from model.loss import IGNORED, LossSums
from tests.distributed import run_ranks
from tests.train.engine.reference import (
    CASES,
    MICRO_BATCH_SIZE,
    RATES,
    WORLD_SIZE,
    assert_same,
    built,
    configured,
    micro_batches,
    num_valid,
    optimizer_state,
    state_of,
)
from tests.train.tiny import LENGTH
from train.distributed import Ranks
from train.engine.config import Precision
from train.engine.engine import Engine, MicroBatch

NUM_STEPS = 2
CHECKPOINTING = [(2, Precision.fp32), (3, Precision.bf16)]  # of activations; their stages are without it, too
VARIANTS = [(*case, case in CHECKPOINTING) for case in CASES]
CUTS = [[0, 20, 23, LENGTH], [0, LENGTH]]  # documents of the rows of a micro-batch


def trained_on(step: int, rank: int) -> list[MicroBatch]:
    """The micro-batches of a step; the second step masks documents."""
    documents = Documents.from_boundaries(CUTS) if step else None
    return [replace(micro, documents=documents) for micro in micro_batches(step, rank)]


def plain(sums: LossSums) -> list[float]:
    return [float(value) for value in (sums.total, sums.ce, sums.z, sums.num_valid)]


def counters(engine: Engine) -> list[Any]:
    """All that must stand still in an evaluation."""
    return [engine._engine.micro_steps, engine._engine.global_steps, engine.forward_seconds, torch.get_rng_state()]


def gathered(engine: Engine) -> int:
    """Elements of parameters that are in memory under ZeRO 3, beside this rank's parts."""
    return sum(p.numel() for p in engine.model.parameters() if hasattr(p, "ds_tensor"))


def evaluate(engine: Engine, rank: int, seen: dict[str, Any]) -> None:
    """One evaluation of other rows, of a different number on each rank, and one forward pass for hooks."""
    [micro, _] = micro_batches(9, rank)
    before = counters(engine)
    engine.evaluate(MicroBatch(micro.tokens_bt[: rank + 1], micro.labels_bt[: rank + 1]))
    engine.forward_only(micro.tokens_bt)
    seen["gathered"].append(gathered(engine))
    after = counters(engine)
    seen["still"].append(before[:-1] == after[:-1] and torch.equal(before[-1], after[-1]))


def train(engine: Engine, rank: int, *, evaluating: bool) -> dict[str, Any]:
    """Two updates; with `evaluating`, evaluations wherever the engine can be called."""
    seen: dict[str, Any] = {"trained": [], "evaluated": [], "updates": [], "gathered": [], "still": []}
    for step in range(NUM_STEPS):
        for micro in trained_on(step, rank):
            if evaluating:
                evaluate(engine, rank, seen)
                seen["evaluated"].append((micro, engine.evaluate(micro)))
                if step == 0 and not seen["trained"]:
                    seen["timed"] = engine._forward.lap()
            seen["trained"].append(engine.accumulate(micro, num_valid(step)))
        if evaluating:
            evaluate(engine, rank, seen)
        update = engine.update(*RATES[step])
        seen["updates"].append((update, state_of(engine), optimizer_state(engine)))
    return seen


def measure(ranks: Ranks) -> dict[Any, dict[bool, dict[str, Any]]]:
    measured: dict[Any, dict[bool, dict[str, Any]]] = {}
    for stage, precision, checkpointing in VARIANTS:
        config = configured(stage, precision, model__activation_checkpointing=checkpointing)
        for evaluating in (False, True):
            engine = built(ranks, config)
            seen = train(engine, ranks.rank, evaluating=evaluating)
            measured.setdefault((stage, precision, checkpointing), {})[evaluating] = seen
            engine.close()
    return measured


@pytest.fixture(scope="module")
def measured() -> list[Any]:
    return run_ranks(measure, WORLD_SIZE)


@pytest.mark.parametrize("variant", VARIANTS)
def test_an_evaluation_gives_the_training_loss_to_the_bit(measured: Any, variant: Any) -> None:
    for rank in range(WORLD_SIZE):
        seen = measured[rank][variant][True]
        assert len(seen["evaluated"]) == len(seen["trained"]) == 2 * NUM_STEPS
        for (_, evaluated), trained in zip(seen["evaluated"], seen["trained"], strict=True):
            assert plain(evaluated) == plain(trained)
            assert not any(value.requires_grad for value in (*evaluated, *trained[:4]))


@pytest.mark.parametrize("variant", VARIANTS)
def test_training_is_the_same_to_the_bit_with_and_without_evaluations(measured: Any, variant: Any) -> None:
    for rank in range(WORLD_SIZE):
        without, with_them = (measured[rank][variant][evaluating] for evaluating in (False, True))
        assert list(map(plain, without["trained"])) == list(map(plain, with_them["trained"]))
        for expected, actual in zip(without["updates"], with_them["updates"], strict=True):
            assert actual[0] == expected[0] and actual[0].applied
            assert_same(actual[1], expected[1])
            assert len(actual[2]) > 3 and all(map(torch.equal, actual[2], expected[2]))


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_cross_entropy_of_tokens_sums_to_that_of_the_micro_batch(measured: Any, variant: Any) -> None:
    for rank in range(WORLD_SIZE):
        seen = measured[rank][variant][True]
        assert all(sums.ce_bt is None for sums in seen["trained"])
        for micro, sums in seen["evaluated"]:
            ce_bt: Tensor = sums.ce_bt
            assert ce_bt.shape == (MICRO_BATCH_SIZE, LENGTH) and ce_bt.dtype == torch.float32
            assert torch.equal(ce_bt > 0, micro.labels_bt != IGNORED)
            assert float(ce_bt.double().sum()) == pytest.approx(float(sums.ce), rel=1e-6)


@pytest.mark.parametrize("variant", VARIANTS)
def test_an_evaluation_counts_nothing_and_holds_nothing(measured: Any, variant: Any) -> None:
    for rank in range(WORLD_SIZE):
        seen = measured[rank][variant][True]
        assert seen["still"] == [True] * (3 * NUM_STEPS)
        assert seen["timed"] == 0.0
        assert seen["gathered"] == [0] * (3 * NUM_STEPS)
