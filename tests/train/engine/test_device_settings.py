"""What an engine sets for its device: the kernel of AdamW whatever a checkpoint says, and the deterministic mode."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from tests.distributed import run_ranks
from tests.train.engine.reference import RATES, built, configured, micro_batches, num_valid
from train.config import RunConfig
from train.distributed import Ranks
from train.engine import engine as engines
from train.engine.build import build_engine
from train.engine.config import Precision
from train.engine.determinism import WORKSPACE, set_determinism
from train.engine.engine import Engine
from train.watch.meter import Meter

CASES = [(1, Precision.bf16), (2, Precision.fp32), (3, Precision.bf16)]


def step(engine: Engine, number: int) -> None:
    for micro in micro_batches(number, 0):
        engine.accumulate(micro, num_valid(number))
    engine.update(*RATES[number])


def saved(ranks: Ranks, config: RunConfig, folder: Path) -> None:
    """Trains one update and saves as a device without a fused kernel does."""
    engine = built(ranks, config)
    step(engine, 0)
    engine.save(folder, lambda state, path: (path.parent.mkdir(parents=True, exist_ok=True), torch.save(state, path)))  # type: ignore[func-returns-value, arg-type]
    engine.close()


def resumed_elsewhere(ranks: Ranks, root: Path) -> list[dict[str, Any]]:
    """Loads checkpoints of a device that has no fused kernel where there is one."""
    seen, own = [], engines.uses_fused_kernel
    for stage, precision in CASES:
        config = configured(stage, precision, global_batch_size=4)
        try:
            engines.uses_fused_kernel = lambda device: False
            saved(ranks, config, root / f"{stage}" / "step")
        finally:
            engines.uses_fused_kernel = own
        engine = build_engine(config, ranks, None)
        engine.load(root / f"{stage}" / "step")
        step(engine, 1)
        steps = [float(state["step"]) for state in engine._adamw.state.values()]
        seen.append({"fused": [group["fused"] for group in engine._engine.optimizer.param_groups], "steps": steps})
        engine.close()
    return seen


def test_adamw_goes_on_with_the_kernel_of_its_device_after_a_checkpoint_of_another(tmp_path: Path) -> None:
    for seen in run_ranks(resumed_elsewhere, 1, tmp_path)[0]:
        assert set(seen["fused"]) == {True} and set(seen["steps"]) == {2.0}


def deterministic(ranks: Ranks) -> dict[str, Any]:
    """An update with a reading of the position watch, in which operators without a fixed order raise."""
    engine = built(ranks, configured(2, Precision.bf16, global_batch_size=4, engine__deterministic=True))
    meter = Meter(engine, False)
    for micro in micro_batches(0, 0):
        engine.accumulate(micro, num_valid(0))
    meter.read_gradients()
    meter.finish(1, engine.update(*RATES[0]).grad_norm, 1)
    engine.close()
    seen = {
        "algorithms": torch.are_deterministic_algorithms_enabled(),
        "cudnn": torch.backends.cuda.cudnn_sdp_enabled(),
        "workspace": os.environ.get(WORKSPACE[0]),
    }
    set_determinism(False)
    return seen


def test_the_deterministic_mode_takes_operators_of_a_fixed_order() -> None:
    seen = run_ranks(deterministic, 1)[0]
    assert seen == {"algorithms": True, "cudnn": False, "workspace": WORKSPACE[1]}


def both_ways(ranks: Ranks) -> list[tuple[float, list[torch.Tensor]]]:
    """Three updates at ZeRO 1 in bf16: gradients are summed as they come, and at the end of the backward pass."""
    seen, own = [], engines.deepspeed_config

    def at_the_end(*arguments: Any) -> dict[str, Any]:
        return {**own(*arguments), "bf16": {"enabled": True}}

    ways: list[Callable[..., dict[str, Any]]] = [own, at_the_end]
    for settings in ways:
        engines.deepspeed_config = settings
        try:
            engine = built(ranks, configured(1, Precision.bf16))
        finally:
            engines.deepspeed_config = own
        norm = 0.0
        for number, rates in enumerate(RATES):
            for micro in micro_batches(number, ranks.rank):
                engine.accumulate(micro, num_valid(number))
            norm += engine.update(*rates).grad_norm
        seen.append((norm, [value.clone() for _, value in engine.full_parameters()]))
        engine.close()
    return seen


def test_gradients_that_are_summed_as_they_come_give_the_same_bits() -> None:
    for (norm, values), (norm_at_end, values_at_end) in run_ranks(both_ways, 2):
        assert norm == norm_at_end and norm > 0
        assert all(torch.equal(value, other) for value, other in zip(values, values_at_end, strict=True))
