"""What the engine does to parameters is what plain PyTorch does on one process, at every ZeRO stage and precision."""

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from model.loss import LossSums
from model.weights import random_weights
from tests.distributed import run_ranks
from tests.train.engine.reference import (
    BF16_NOISE,
    CASES,
    RATES,
    REORDERED,
    WORLD_SIZE,
    State,
    assert_same,
    built,
    configured,
    distance,
    micro_batches,
    num_valid,
    optimizer_state,
    reference_gradients,
    reference_updates,
    state_of,
)
from train.distributed import Ranks
from train.engine.build import build_engine
from train.engine.config import Precision
from train.engine.engine import MOMENTS, Engine

Case = tuple[int, Precision]


def accumulate(engine: Engine, step: int, rank: int, denominator: float) -> float:
    return sum(float(engine.accumulate(micro, denominator).total) for micro in micro_batches(step, rank))


def with_infinite_loss(module: Any, inputs: Any, sums: LossSums) -> LossSums:
    """A loss that is infinite while its gradients are finite, in the first micro-batch of one rank only."""
    is_first = torch.equal(inputs[0], micro_batches(2, 1)[0].tokens_bt)
    return sums._replace(total=sums.total + math.inf) if is_first else sums


def drop_updates(engine: Engine, rank: int, seen: dict[str, Any]) -> None:
    """Four updates of step 2 that must not be applied, and what they leave behind."""
    is_last = rank == WORLD_SIZE - 1
    before = optimizer_state(engine)
    accumulate(engine, 2, rank, math.nan if is_last else num_valid(2))
    seen["nan gradient"] = engine.update(*RATES[2]), state_of(engine), before, optimizer_state(engine)
    hook = engine.model.register_forward_hook(with_infinite_loss)
    accumulate(engine, 2, rank, num_valid(2))
    hook.remove()
    seen["infinite loss"] = engine.update(*RATES[2]), state_of(engine), before, optimizer_state(engine)
    accumulate(engine, 2, rank, num_valid(2) * (1e-25 if is_last else 1.0))
    seen["huge gradient"] = engine.update(*RATES[2]), state_of(engine), before, optimizer_state(engine)
    accumulate(engine, 2, rank, num_valid(2))
    refused = engine.update(*RATES[2], accept=lambda norm: False)
    seen["refused"] = refused, state_of(engine), before, optimizer_state(engine)


def whole_gradients(engine: Engine) -> State:
    from deepspeed.utils import safe_get_full_grad

    return {name: safe_get_full_grad(p).float().clone() for name, p in engine.model.named_parameters()}


def whole_moments(engine: Engine) -> dict[tuple[str, str], Tensor]:
    from deepspeed.utils import safe_get_full_optimizer_state

    if engine.zero_stage in (1, 2):  # DeepSpeed links moments to parameters after the first group's step, too early
        engine._engine.optimizer._hp_optimizer_states_linked = False
        engine._engine.optimizer._lazy_init_hp_params_optimizer_state()

    def read(parameter: Any, key: str) -> Tensor:
        if engine.zero_stage == 0:
            return engine._engine.optimizer.state[parameter][key]
        return safe_get_full_optimizer_state(parameter, key)

    return {(name, key): read(p, key).clone() for name, p in engine.model.named_parameters() for key in MOMENTS}


def local_parts(engine: Engine) -> Iterator[tuple[str, Tensor, Tensor]]:
    for name, parameter in engine.model.named_parameters():
        yield name, engine.local_value(parameter).clone(), engine.local_gradient(parameter).float().clone()


def is_finite_with(engine: Engine, bad: float) -> Iterator[bool]:
    """What `is_finite` says of a bad moment, and of a bad weight."""
    optimizer = getattr(engine._engine.optimizer, "optimizer", engine._engine.optimizer)
    moments = next(iter(optimizer.state.values()))["exp_avg"]
    moments.view(-1)[-1] = bad
    yield engine.is_finite()
    moments.zero_()
    next(iter(engine.model.parameters())).data.view(-1)[:1] = bad  # empty under ZeRO 3: changes nothing
    yield engine.is_finite()


def measure(ranks: Ranks, stage: int, precision: Precision) -> dict[str, Any]:
    """Three updates, and between the second and the third some that are dropped; the third again from whole tensors."""
    config = configured(stage, precision)
    engine = built(ranks, config)
    seen: dict[str, Any] = {"initial": state_of(engine), "states": [], "norms": [], "applied": [], "totals": []}
    seen["asked"] = []
    for step, rate in enumerate(RATES):
        if step == 2:
            drop_updates(engine, ranks.rank, seen)
            moments, masters = whole_moments(engine), state_of(engine)
        seen["totals"].append(accumulate(engine, step, ranks.rank, num_valid(step)))
        if step == 0:
            seen["gradients"], seen["parts"] = whole_gradients(engine), list(local_parts(engine))
        update = engine.update(*rate, accept=(lambda norm: seen["asked"].append(norm) or True) if step == 2 else None)
        seen["norms"].append(update.grad_norm)
        seen["applied"].append(update.applied)
        seen["states"].append(state_of(engine))
    seen["optimizer"] = optimizer_state(engine)
    seen["finite"] = [engine.is_finite(), *is_finite_with(engine, math.inf), *is_finite_with(engine, math.nan)]
    seen["waits"] = engine._engine.tput_timer.micro_step_count
    engine.close()

    engine = build_engine(config, ranks, masters.__getitem__)
    engine.load_optimizer(lambda name, key: moments[name, key], num_updates=2)
    accumulate(engine, 2, ranks.rank, num_valid(2))
    again = engine.update(*RATES[2])
    seen["again"] = again.grad_norm, state_of(engine), optimizer_state(engine)
    engine.close()
    return seen


def measure_all(ranks: Ranks) -> dict[Case, dict[str, Any]]:
    return {case: measure(ranks, *case) for case in CASES}


@pytest.fixture(scope="module")
def measured() -> list[dict[Case, dict[str, Any]]]:
    return run_ranks(measure_all, WORLD_SIZE)


@pytest.mark.parametrize(("stage", "precision"), CASES)
def test_gradients_are_those_of_one_global_batch(measured: Any, stage: int, precision: Precision) -> None:
    config = configured(stage, precision)
    weights = random_weights(config.model, config.positions, config.seed)
    masters = {name: weights(name) for name in measured[0][stage, precision]["initial"]}
    expected = reference_gradients(config, masters, precision, step=0)
    for rank in range(WORLD_SIZE):
        gradients = measured[rank][stage, precision]["gradients"]
        assert distance(gradients, expected) < (BF16_NOISE if (stage, precision) in REORDERED else 1e-6)
        head = {"lm_head.weight"}  # nothing branches above it: here sums have one order
        assert distance(*({name: state[name] for name in head} for state in (gradients, expected))) < 1e-6


@pytest.mark.parametrize(("stage", "precision"), CASES)
def test_each_element_of_a_master_and_of_a_gradient_lies_with_one_rank(
    measured: Any, stage: int, precision: Precision
) -> None:
    first, second = (measured[rank][stage, precision] for rank in range(WORLD_SIZE))
    for (name, *lower), (_, *upper) in zip(first["parts"], second["parts"], strict=True):
        value, gradient = (torch.cat(parts) for parts in zip(lower, upper, strict=True))
        assert torch.equal(value, first["initial"][name].flatten()), name
        assert torch.equal(gradient, first["gradients"][name].flatten()), name


@pytest.mark.parametrize(("stage", "precision"), CASES)
def test_master_weights_start_unrounded(measured: Any, stage: int, precision: Precision) -> None:
    config = configured(stage, precision)
    weights = random_weights(config.model, config.positions, config.seed)
    for name, value in measured[0][stage, precision]["initial"].items():
        assert value.dtype == torch.float32
        assert torch.equal(value, weights(name)), name


@pytest.mark.parametrize(("stage", "precision"), CASES)
def test_updates_are_those_of_adamw_on_one_process(measured: Any, stage: int, precision: Precision) -> None:
    states, norms = reference_updates(configured(1, precision), precision)
    seen = measured[0][stage, precision]
    assert seen["applied"] == [True, True, True]
    first, later = 1e-4, 1e-4
    if precision is Precision.bf16:  # masters an fp32 rounding apart may become neighbouring bf16 weights
        first, later = BF16_NOISE if stage == 3 else 1e-4, BF16_NOISE
    for step, tolerance in enumerate((first, later, later)):
        assert seen["norms"][step] == pytest.approx(norms[step], rel=tolerance)
        assert distance(seen["states"][step], states[step], seen["initial"]) < tolerance


@pytest.mark.parametrize("bad", ["nan gradient", "infinite loss", "huge gradient"])
@pytest.mark.parametrize(("stage", "precision"), CASES)
def test_a_bad_number_on_one_rank_drops_the_update_on_all(
    measured: Any, stage: int, precision: Precision, bad: str
) -> None:
    for rank in range(WORLD_SIZE):
        seen = measured[rank][stage, precision]
        update, weights, before, after = seen[bad]
        assert not update.applied and not math.isfinite(update.grad_norm)
        assert_same(weights, seen["states"][1])
        assert all(map(torch.equal, before, after))  # masters, moments and step counters


@pytest.mark.parametrize(("stage", "precision"), CASES)
def test_a_refused_update_changes_nothing(measured: Any, stage: int, precision: Precision) -> None:
    for rank in range(WORLD_SIZE):
        seen = measured[rank][stage, precision]
        update, weights, before, after = seen["refused"]
        assert not update.applied
        assert_same(weights, seen["states"][1])
        assert len(before) == len(after) > 3 and all(map(torch.equal, before, after))
        # The same batch gives the same norm again, and `accept` gets it before the update that reports it.
        assert seen["asked"] == [pytest.approx(seen["norms"][2], rel=1e-6)]
        assert update.grad_norm == seen["asked"][0]


@pytest.mark.parametrize(("stage", "precision"), CASES)
def test_an_optimizer_set_from_whole_moments_goes_on_to_the_bit(
    measured: Any, stage: int, precision: Precision
) -> None:
    for rank in range(WORLD_SIZE):
        seen = measured[rank][stage, precision]
        grad_norm, weights, optimizer = seen["again"]
        assert grad_norm == seen["norms"][2]
        assert_same(weights, seen["states"][2])
        assert len(optimizer) == len(seen["optimizer"]) > 3 and all(map(torch.equal, optimizer, seen["optimizer"]))


@pytest.mark.parametrize(("stage", "precision"), CASES)
def test_a_bad_number_in_weights_or_moments_is_seen(measured: Any, stage: int, precision: Precision) -> None:
    finite, *after = measured[0][stage, precision]["finite"]
    assert finite
    moments, weights = after[::2], after[1::2]
    assert moments == [False, False]
    assert weights == [stage == 3, stage == 3]


@pytest.mark.parametrize(("stage", "precision"), CASES)
def test_ranks_agree_to_the_bit(measured: Any, stage: int, precision: Precision) -> None:
    first, second = (measured[rank][stage, precision] for rank in range(WORLD_SIZE))
    assert first["norms"] == second["norms"]
    assert_same(first["states"][-1], second["states"][-1])
    assert first["totals"] != second["totals"]  # they did see different rows


@pytest.mark.parametrize(("stage", "precision"), CASES)
def test_deepspeeds_timer_does_not_wait_for_the_device(measured: Any, stage: int, precision: Precision) -> None:
    assert measured[0][stage, precision]["waits"] == 0
