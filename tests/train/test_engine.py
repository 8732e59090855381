"""What the engine does to parameters is what plain PyTorch does on one process, at every ZeRO stage and precision.

The reference is torch autograd and torch AdamW on whole fp32 masters. Two ranks take two micro-batches each, with
labels left out unevenly, so that a mean of means would be wrong.
"""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from model.loss import IGNORED, LossSums
from model.transformer import Olmo2
from model.weights import initialise, random_weights
from tests.distributed import run_ranks
from tests.train.tiny import LENGTH, VOCAB_SIZE, tiny
from train.config import RunConfig
from train.distributed import Ranks
from train.engine import Engine, MicroBatch, resolve_precision
from train.engine_config import Precision
from train.errors import TrainError

CASES = [(stage, Precision.fp32) for stage in (0, 1, 2, 3)] + [(stage, Precision.bf16) for stage in (1, 2, 3)]
RATES = ((1e-2, 2.5), (5e-3, 1.0), (2e-3, 0.5))  # (learning rate, factor of RePo's group) of three updates
WORLD_SIZE, MICRO_BATCH_SIZE, NUM_MICRO_BATCHES = 2, 2, 2

REORDERED = [
    (3, Precision.bf16)
]  # its hooks change the order in which autograd adds up bf16 gradients where h branches
BF16_NOISE = 3e-2

State = dict[str, Tensor]


def configured(stage: int, precision: Precision) -> RunConfig:
    changes = {"engine__zero_stage": stage, "engine__precision": precision}
    return tiny(Path(), **changes, optimizer__max_grad_norm=0.5, optimizer__eps=1e-2)  # AdamW, less nervous of noise


def batch(step: int) -> tuple[Tensor, Tensor]:
    """Global tokens and labels [8, T]; from none to all labels of a micro-batch count."""
    generator = torch.Generator().manual_seed(step)
    num_rows = WORLD_SIZE * NUM_MICRO_BATCHES * MICRO_BATCH_SIZE
    tokens = torch.randint(VOCAB_SIZE, (num_rows, LENGTH), generator=generator)
    labels = tokens.roll(-1, 1)
    for row, num_valid in enumerate((LENGTH, 3, 30, 0, 17, LENGTH, 0, 0)):
        labels[row, num_valid:] = IGNORED
    return tokens, labels


def micro_batches(step: int, rank: int) -> list[MicroBatch]:
    tokens, labels = batch(step)
    first = rank * NUM_MICRO_BATCHES * MICRO_BATCH_SIZE
    starts = range(first, first + NUM_MICRO_BATCHES * MICRO_BATCH_SIZE, MICRO_BATCH_SIZE)
    return [MicroBatch(tokens[s : s + MICRO_BATCH_SIZE], labels[s : s + MICRO_BATCH_SIZE]) for s in starts]


def num_valid(step: int) -> int:
    return int((batch(step)[1] != IGNORED).sum())


def accumulate(engine: Engine, step: int, rank: int, denominator: float) -> float:
    return sum(float(engine.accumulate(micro, denominator).total) for micro in micro_batches(step, rank))


def state_of(engine: Engine) -> State:
    return {name: value.clone() for name, value in engine.full_parameters()}


def optimizer_state(engine: Engine) -> list[Tensor]:
    """Masters, moments and step counters that lie with this rank."""
    optimizer = getattr(engine._engine.optimizer, "optimizer", engine._engine.optimizer)
    return [v.clone() for master, state in optimizer.state.items() for v in (master, *state.values())]


def with_infinite_loss(module: Any, inputs: Any, sums: LossSums) -> LossSums:
    """A loss that is infinite while its gradients are finite, in the first micro-batch only."""
    return (
        sums._replace(total=sums.total + math.inf) if torch.equal(inputs[0], micro_batches(2, 1)[0].tokens_bt) else sums
    )


def spoil(engine: Engine, rank: int, seen: dict[str, Any]) -> None:
    """Three updates of step 2 that must not land, and what they leave behind."""
    is_last = rank == WORLD_SIZE - 1
    before = optimizer_state(engine)
    accumulate(engine, 2, rank, math.nan if is_last else num_valid(2))
    seen["nan gradient"] = engine.update(*RATES[2]), state_of(engine), before, optimizer_state(engine)
    hook = engine.model.register_forward_hook(with_infinite_loss)
    accumulate(engine, 2, rank, num_valid(2))
    hook.remove()
    seen["infinite loss"] = engine.update(*RATES[2]), state_of(engine), before, optimizer_state(engine)
    accumulate(engine, 2, rank, num_valid(2))
    refused = engine.update(*RATES[2], accept=lambda norm: False)
    seen["refused"] = refused, state_of(engine), before, optimizer_state(engine)


def measure(ranks: Ranks, stage: int, precision: Precision) -> dict[str, Any]:
    """Three updates, and between the second and the third some that are dropped; at the end, a bad number."""
    from deepspeed.utils import safe_get_full_grad

    config = configured(stage, precision)
    engine = Engine(config, ranks, random_weights(config.model, config.positions, config.seed))
    seen: dict[str, Any] = {"initial": state_of(engine), "states": [], "norms": [], "applied": [], "totals": []}
    seen["asked"] = []
    for step, rate in enumerate(RATES):
        if step == 2:
            spoil(engine, ranks.rank, seen)
        seen["totals"].append(accumulate(engine, step, ranks.rank, num_valid(step)))
        if step == 0:
            seen["gradients"] = {
                name: safe_get_full_grad(p).float().clone() for name, p in engine.model.named_parameters()
            }
        update = engine.update(*rate, accept=(lambda norm: seen["asked"].append(norm) or True) if step == 2 else None)
        seen["norms"].append(update.grad_norm)
        seen["applied"].append(update.applied)
        seen["states"].append(state_of(engine))
    seen["finite"] = [engine.is_finite()]
    optimizer = getattr(engine._engine.optimizer, "optimizer", engine._engine.optimizer)
    for bad in (math.inf, math.nan):
        moments = next(iter(optimizer.state.values()))["exp_avg"]
        moments.view(-1)[-1] = bad
        seen["finite"].append(engine.is_finite())
        moments.zero_()
        next(iter(engine.model.parameters())).data.view(-1)[:1] = bad  # under ZeRO 3 there is nothing to change here
        seen["finite"].append(engine.is_finite())
    engine.close()
    return seen


def measure_all(ranks: Ranks) -> dict[tuple[int, Precision], dict[str, Any]]:
    return {case: measure(ranks, *case) for case in CASES}


@pytest.fixture(scope="module")
def measured() -> list[dict[tuple[int, Precision], dict[str, Any]]]:
    return run_ranks(measure_all, WORLD_SIZE)


def reference_gradients(masters: State, precision: Precision, step: int) -> State:
    """Of the mean loss over all valid labels; each micro-batch in `precision`, their sum in fp32."""
    config = configured(1, precision)
    dtype = torch.bfloat16 if precision is Precision.bf16 else torch.float32
    model = Olmo2(config.model, config.positions, config.loss.z_loss_weight).to(dtype)
    initialise(model, masters.__getitem__, "cpu")
    total = {name: torch.zeros_like(value) for name, value in masters.items()}
    for rank in range(WORLD_SIZE):
        for micro in micro_batches(step, rank):
            model.zero_grad()
            (model(micro.tokens_bt, micro.labels_bt).total / num_valid(step)).backward()
            for name, parameter in model.named_parameters():
                total[name] += parameter.grad.float()
    return total


def reference_updates(precision: Precision) -> tuple[list[State], list[float]]:
    """Masters after each update, and the norms of the gradients before clipping."""
    config = configured(1, precision)
    weights = random_weights(config.model, config.positions, config.seed)
    with torch.device("meta"):
        names = [name for name, _ in Olmo2(config.model, config.positions).named_parameters()]
    masters = {name: weights(name).requires_grad_() for name in names}
    groups: list[dict[str, Any]] = [
        {"params": [masters["embed_tokens.weight"]], "weight_decay": 0.0, "factor": False},
        {"params": [v for n, v in masters.items() if "positions" in n], "weight_decay": 0.1, "factor": True},
        {"params": [v for n, v in masters.items() if "positions" not in n and "embed" not in n], "weight_decay": 0.1},
    ]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95), eps=config.optimizer.eps)
    states, norms = [], []
    for step, (rate, factor) in enumerate(RATES):
        gradients = reference_gradients({n: v.detach() for n, v in masters.items()}, precision, step)
        norm = math.sqrt(sum(float(g.double().square().sum()) for g in gradients.values()))
        norms.append(norm)
        for name, master in masters.items():
            master.grad = gradients[name] * min(1.0, config.optimizer.max_grad_norm / (norm + 1e-6))
        for group in optimizer.param_groups:
            group["lr"] = rate * (factor if group.get("factor") else 1.0)
        optimizer.step()
        states.append({name: master.detach().clone() for name, master in masters.items()})
    return states, norms


def distance(actual: State, expected: State, origin: State | None = None) -> float:
    """|actual - expected| / |expected - origin| over all parameters together; the origin is zero if not given."""
    assert actual.keys() == expected.keys()
    difference = sum((actual[name] - value).double().square().sum() for name, value in expected.items())
    scale = sum((value - (origin[name] if origin else 0.0)).double().square().sum() for name, value in expected.items())
    return math.sqrt(float(difference) / float(scale))


def assert_same(actual: State, expected: State) -> None:
    assert actual.keys() == expected.keys()
    assert all(torch.equal(actual[name], value) for name, value in expected.items())


@pytest.mark.parametrize(("stage", "precision"), CASES)
def test_gradients_are_those_of_one_global_batch(measured: Any, stage: int, precision: Precision) -> None:
    config = configured(stage, precision)
    weights = random_weights(config.model, config.positions, config.seed)
    masters = {name: weights(name) for name in measured[0][stage, precision]["initial"]}
    expected = reference_gradients(masters, precision, step=0)
    for rank in range(WORLD_SIZE):
        gradients = measured[rank][stage, precision]["gradients"]
        assert distance(gradients, expected) < (BF16_NOISE if (stage, precision) in REORDERED else 1e-6)
        head = {"lm_head.weight"}  # nothing branches above it: here sums have one order
        assert distance(*({name: state[name] for name in head} for state in (gradients, expected))) < 1e-6


@pytest.mark.parametrize(("stage", "precision"), CASES)
def test_master_weights_start_unrounded(measured: Any, stage: int, precision: Precision) -> None:
    config = configured(stage, precision)
    weights = random_weights(config.model, config.positions, config.seed)
    for name, value in measured[0][stage, precision]["initial"].items():
        assert value.dtype == torch.float32
        assert torch.equal(value, weights(name)), name


@pytest.mark.parametrize(("stage", "precision"), CASES)
def test_updates_are_those_of_adamw_on_one_process(measured: Any, stage: int, precision: Precision) -> None:
    states, norms = reference_updates(precision)
    seen = measured[0][stage, precision]
    assert seen["applied"] == [True, True, True]
    first, later = 1e-4, 1e-4
    if precision is Precision.bf16:  # masters an fp32 rounding apart may become neighbouring bf16 weights
        first, later = BF16_NOISE if stage == 3 else 1e-4, BF16_NOISE
    for step, tolerance in enumerate((first, later, later)):
        assert seen["norms"][step] == pytest.approx(norms[step], rel=tolerance)
        assert distance(seen["states"][step], states[step], seen["initial"]) < tolerance


@pytest.mark.parametrize("spoilt", ["nan gradient", "infinite loss"])
@pytest.mark.parametrize(("stage", "precision"), CASES)
def test_a_bad_number_on_one_rank_drops_the_update_on_all(
    measured: Any, stage: int, precision: Precision, spoilt: str
) -> None:
    for rank in range(WORLD_SIZE):
        seen = measured[rank][stage, precision]
        update, weights, before, after = seen[spoilt]
        assert not update.applied and not math.isfinite(update.grad_norm)
        assert_same(weights, seen["states"][1])
        assert all(map(torch.equal, before, after))  # masters, moments and step counters


@pytest.mark.parametrize(("stage", "precision"), CASES)
def test_a_refused_update_leaves_no_trace(measured: Any, stage: int, precision: Precision) -> None:
    for rank in range(WORLD_SIZE):
        seen = measured[rank][stage, precision]
        update, weights, before, after = seen["refused"]
        assert not update.applied
        assert_same(weights, seen["states"][1])
        assert len(before) == len(after) > 3 and all(map(torch.equal, before, after))
        # The same batch gives the same norm again, and it is asked about before the step that reports it.
        assert seen["asked"] == [pytest.approx(seen["norms"][2], rel=1e-6)]
        assert update.grad_norm == seen["asked"][0]


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


def test_zero_0_with_bf16_is_refused() -> None:
    with pytest.raises(TrainError, match=r"engine\.zero_stage=1 .*, or engine\.precision=fp32"):
        resolve_precision(Precision.bf16, torch.device("cpu"), zero_stage=0)
    assert resolve_precision(Precision.bf16, torch.device("cpu"), zero_stage=1) is Precision.bf16


def test_auto_is_bf16_on_a_gpu_and_fp32_on_a_cpu() -> None:
    assert resolve_precision(Precision.auto, torch.device("cuda"), zero_stage=2) is Precision.bf16
    assert resolve_precision(Precision.auto, torch.device("cpu"), zero_stage=0) is Precision.fp32
