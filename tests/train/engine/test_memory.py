"""What a rank is said to hold and to send is what real ranks hold in their tensors and give to real collectives."""

import copy
import gc
from collections.abc import Iterable
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.counters import committed, counted_waits, of_engine
from model.accounting import num_parameters, parameter_sizes
from model.config import ModelConfig
from tests.composing import compose
from tests.distributed import run_ranks
from tests.train.engine.reference import RATES, WORLD_SIZE, built, configured, micro_batches, num_valid
from train.config import RunConfig
from train.distributed import Ranks
from train.engine.config import Precision
from train.engine.engine import MOMENTS, Engine
from train.engine.memory import FLOAT32, checkpoint_bytes, memory, traffic

Case = tuple[int, Precision]
CASES: list[Case] = [(0, Precision.fp32), (1, Precision.fp32), *((stage, Precision.bf16) for stage in (1, 2, 3))]
GIB = 2**30
NOISE = 2048  # bytes: counters, norms and flags, and what cutting into equal parts adds


def num_bytes(tensors: Iterable[Tensor]) -> dict[int, int]:
    """Returns the size of every storage with numbers, by its address."""
    storages = (tensor.untyped_storage() for tensor in tensors if tensor.is_floating_point())
    return {storage.data_ptr(): storage.nbytes() for storage in storages if storage.nbytes()}


def all_tensors() -> list[Tensor]:
    gc.collect()
    return [tensor for tensor in gc.get_objects() if type(tensor) in (Tensor, torch.nn.Parameter)]


def held(engine: Engine, before: dict[int, int]) -> dict[str, int]:
    """Returns the bytes of each part, and of what is none of them."""
    parameters: list[Any] = list(engine.model.parameters())
    partitions = [parameter.ds_tensor for parameter in parameters if hasattr(parameter, "ds_tensor")]
    moments = [state[key] for state in engine._adamw.state.values() for key in MOMENTS if key in state]
    masters = [*engine._adamw.state, *getattr(engine._engine.optimizer, "fp32_partitioned_groups_flat", [])]
    weights = num_bytes([*parameters, *partitions])
    optimizer = {place: size for place, size in num_bytes([*masters, *moments]).items() if place not in weights}
    gradients = num_bytes(parameter.grad for parameter in parameters if parameter.grad is not None)
    rest = num_bytes(all_tensors())
    others = {p: size for p, size in rest.items() if p not in {**before, **weights, **optimizer, **gradients}}
    parts = {"weights": weights, "optimizer": optimizer, "gradients": gradients, "others": others}
    return {name: sum(sizes.values()) for name, sizes in parts.items()}


def measure(ranks: Ranks, case: Case) -> dict[str, Any]:
    """An update, so that there are moments, one whose waits are counted, and one whose tensors are looked at.

    Apart, as DeepSpeed waits for the device around each collective that it logs.
    """
    import deepspeed.comm.comm as collectives

    before = num_bytes(all_tensors()) if ranks.is_main else {}
    engine = built(ranks, configured(*case))
    seen: dict[str, Any] = {"held": [], "waits": []}
    for step in range(3):
        collectives.configure(enabled=step == 2, prof_all=True, verbose=False)
        collectives.comms_logger.comms_dict.clear()
        denominator = num_valid(step)
        for micro in micro_batches(step, ranks.rank):
            with counted_waits() as waits:
                engine.accumulate(micro, denominator)
            if step == 1:
                seen["waits"].append(list(waits))
            if step == 2 and ranks.is_main:  # the other rank holds as much, and looking takes a second
                seen["held"].append(held(engine, before))
        engine.update(*RATES[step])
    sizes = {name: dict(calls) for name, calls in collectives.comms_logger.comms_dict.items()}
    seen["sent"] = {name: sum(size * calls[0] for size, calls in rows.items()) for name, rows in sizes.items()}
    seen["num_collectives"] = sum(calls[0] for rows in sizes.values() for calls in rows.values())
    collectives.comms_logger.enabled = False
    engine.close()
    return seen


def measure_all(ranks: Ranks) -> dict[Case, dict[str, Any]]:
    return {case: measure(ranks, case) for case in CASES}


@pytest.fixture(scope="module")
def measured() -> dict[Case, dict[str, Any]]:
    seen: dict[Case, dict[str, Any]] = run_ranks(measure_all, WORLD_SIZE)[0]
    return seen


@pytest.mark.parametrize("case", CASES)
def test_the_states_of_a_rank_are_those_that_it_holds(measured: dict[Case, dict[str, Any]], case: Case) -> None:
    config = configured(*case)
    planned = memory(config, WORLD_SIZE, on_gpu=False)
    between, last = measured[case]["held"]
    buffers = planned.buffers if case[0] == 3 else 0
    assert last["weights"] == pytest.approx(planned.weights, abs=NOISE)
    assert last["optimizer"] == pytest.approx(planned.optimizer, abs=NOISE)
    gradients = last["gradients"] + last["others"] - buffers
    # In fp32, a parameter of which two ranks have a part keeps the whole gradient.
    cut = FLOAT32 * max(parameter_sizes(config.model, config.positions))
    if case == (1, Precision.fp32):  # whole between micro-batches; a part of the sum, for the update, comes at the end
        share = FLOAT32 * num_parameters(config.model, config.positions) // WORLD_SIZE
        assert between["gradients"] == pytest.approx(planned.gradients - share, abs=NOISE)
        assert share - NOISE <= gradients <= share + cut
    else:
        assert gradients == pytest.approx(planned.gradients, abs=NOISE)


@pytest.mark.parametrize("case", CASES)
def test_what_an_update_sends_is_what_collectives_are_given(measured: dict[Case, dict[str, Any]], case: Case) -> None:
    planned = traffic(configured(*case), WORLD_SIZE, on_gpu=False)
    sent = {name: size for name, size in measured[case]["sent"].items() if size > NOISE}
    gathered = WORLD_SIZE * sent.pop("all_gather_into_tensor", 0)  # counted by what a rank gives
    assert sent.pop("all_reduce", 0) == pytest.approx(planned.all_reduced, abs=NOISE)
    assert sent.pop("reduce_scatter_tensor", 0) == pytest.approx(planned.reduce_scattered, abs=NOISE)
    assert gathered == pytest.approx(planned.all_gathered, abs=NOISE)
    assert sent == {}


@pytest.mark.parametrize("case", CASES)
def test_waits_and_collectives_are_not_more_than_the_committed_ones(
    measured: dict[Case, dict[str, Any]], case: Case
) -> None:
    assert measured[case]["waits"] == [[], []]  # in each micro-batch
    limits = committed()
    for name, value in of_engine(case, measured[case]).items():
        assert value <= limits[name][1], f"{name}: see benchmarks/counters.py"


@pytest.fixture(scope="module")
def job() -> RunConfig:
    return compose("experiment=repo-1b-50b")


@pytest.mark.parametrize(
    ("stage", "states", "on_the_wire"),
    [(1, (25.1, 10.5, 8.6), (13.1, 14.7)), (2, (25.1, 5.6, 3.1), (170.2, 26.5)), (3, (None, None, None), (168, 23.6))],
)
def test_the_1b_job_by_hand(
    stage: int, states: tuple[float | None, ...], on_the_wire: tuple[float, float], job: RunConfig
) -> None:
    config = copy.deepcopy(job)
    config.engine.zero_stage = stage
    for world_size, gib in zip((1, 8, 64), states, strict=True):
        if gib is not None:
            assert memory(config, world_size, on_gpu=True).states / GIB == pytest.approx(gib, abs=0.06)
    assert traffic(config, 1, on_gpu=True).on_the_wire(1) == 0
    for world_size, gb in zip((8, 64), on_the_wire, strict=True):
        assert traffic(config, world_size, on_gpu=True).on_the_wire(world_size) / 1e9 == pytest.approx(gb, rel=0.02)


def test_the_peaks_that_were_calculated_tensor_by_tensor(job: RunConfig) -> None:
    config = copy.deepcopy(job)
    config.engine.zero_stage, config.model.compile = 2, False
    assert memory(config, 1, on_gpu=True).peak / GIB == pytest.approx(58, rel=0.05)
    config.micro_batch_size = 8
    assert memory(config, 1, on_gpu=True).peak / GIB == pytest.approx(88, rel=0.06)


def test_a_checkpoint_has_14_bytes_a_parameter(job: RunConfig) -> None:
    assert job.model == ModelConfig() and checkpoint_bytes(job, on_gpu=True) == 14 * 1_496_496_128
