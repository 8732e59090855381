"""A tiny model and batches for tests of the engine, and what plain PyTorch makes of them in one process.

The reference is torch autograd and torch AdamW on whole fp32 masters. Two ranks take two micro-batches each, with
labels ignored unevenly, so that a mean of means would be wrong.
"""

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from model.loss import IGNORED
from model.transformer import Olmo2
from model.weights import initialise, random_weights
from tests.train.tiny import LENGTH, VOCAB_SIZE, tiny
from train.config import RunConfig
from train.distributed import Ranks
from train.engine.build import build_engine
from train.engine.config import Precision
from train.engine.engine import Engine, MicroBatch

CASES = [(stage, Precision.fp32) for stage in (0, 1, 2, 3)] + [(stage, Precision.bf16) for stage in (1, 2, 3)]
RATES = ((1e-2, 2.5), (5e-3, 1.0), (2e-3, 0.5))  # (learning rate, factor of RePo's group) of three updates
WORLD_SIZE, MICRO_BATCH_SIZE, NUM_MICRO_BATCHES = 2, 2, 2

# ZeRO 3's hooks change the order in which autograd adds up bf16 gradients where h branches.
REORDERED = [(3, Precision.bf16)]
BF16_NOISE = 3e-2

State = dict[str, Tensor]


def configured(stage: int, precision: Precision, **changes: Any) -> RunConfig:
    """Returns the config of a case."""
    given = {"engine__zero_stage": stage, "engine__precision": precision, "micro_batch_size": MICRO_BATCH_SIZE}
    changes = {**given, **changes}
    return tiny(Path(), **changes, optimizer__max_grad_norm=0.5, optimizer__eps=1e-2)  # AdamW, less sensitive to noise


def built(ranks: Ranks, config: RunConfig) -> Engine:
    """Returns the engine with the fresh weights of the config's seed."""
    return build_engine(config, ranks, random_weights(config.model, config.positions, config.seed))


def batch(step: int) -> tuple[Tensor, Tensor]:
    """Returns global tokens and labels [8, T]; from none to all labels of a micro-batch count."""
    generator = torch.Generator().manual_seed(step)
    num_rows = WORLD_SIZE * NUM_MICRO_BATCHES * MICRO_BATCH_SIZE
    tokens = torch.randint(VOCAB_SIZE, (num_rows, LENGTH), generator=generator)
    labels = tokens.roll(-1, 1)
    for row, num_valid in enumerate((LENGTH, 3, 30, 0, 17, LENGTH, 0, 0)):
        labels[row, num_valid:] = IGNORED
    return tokens, labels


def micro_batches(step: int, rank: int) -> list[MicroBatch]:
    """Returns the micro-batches of one of two ranks."""
    tokens, labels = batch(step)
    first = rank * NUM_MICRO_BATCHES * MICRO_BATCH_SIZE
    starts = range(first, first + NUM_MICRO_BATCHES * MICRO_BATCH_SIZE, MICRO_BATCH_SIZE)
    return [MicroBatch(tokens[s : s + MICRO_BATCH_SIZE], labels[s : s + MICRO_BATCH_SIZE]) for s in starts]


def num_valid(step: int) -> int:
    """Returns how many labels of the global batch count."""
    return int((batch(step)[1] != IGNORED).sum())


def state_of(engine: Engine) -> State:
    """Returns copies of the whole parameters."""
    return {name: value.clone() for name, value in engine.full_parameters()}


def optimizer_state(engine: Engine) -> list[Tensor]:
    """Returns copies of the masters, moments and step counters that lie with this rank."""
    optimizer = getattr(engine._engine.optimizer, "optimizer", engine._engine.optimizer)
    return [v.clone() for master, state in optimizer.state.items() for v in (master, *state.values())]


def reference_gradients(config: RunConfig, masters: State, precision: Precision, step: int) -> State:
    """Returns gradients of the mean loss over all valid labels; each micro-batch in `precision`, their sum in fp32."""
    dtype = torch.bfloat16 if precision is Precision.bf16 else torch.float32
    model = Olmo2(config.model, config.positions, config.loss.z_loss_weight).to(dtype)
    initialise(model, masters.__getitem__, "cpu")
    total = {name: torch.zeros_like(value) for name, value in masters.items()}
    for rank in range(WORLD_SIZE):
        for micro in micro_batches(step, rank):
            model.zero_grad()
            (model(micro.tokens_bt, micro.labels_bt).total / num_valid(step)).backward()
            for name, parameter in model.named_parameters():
                assert parameter.grad is not None
                total[name] += parameter.grad.float()
    return total


def reference_updates(config: RunConfig, precision: Precision) -> tuple[list[State], list[float]]:
    """Returns the masters after each update, and the norms of the gradients before clipping."""
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
        gradients = reference_gradients(config, {n: v.detach() for n, v in masters.items()}, precision, step)
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
    """Returns |actual - expected| / |expected - origin| over all parameters together; no origin means zero."""
    assert actual.keys() == expected.keys()
    difference = sum((actual[name] - value).double().square().sum() for name, value in expected.items())
    scale = sum((value - (origin[name] if origin else 0.0)).double().square().sum() for name, value in expected.items())
    return math.sqrt(float(difference) / float(scale))


def assert_same(actual: State, expected: State) -> None:
    """Asserts equality to the bit."""
    assert actual.keys() == expected.keys()
    assert all(torch.equal(actual[name], value) for name, value in expected.items())
