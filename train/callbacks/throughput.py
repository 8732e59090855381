"""Tokens per second, model FLOPs utilisation, the time of each phase of a step, and the peak of device memory.

The phases of a step are data, forward, backward, update (optimizer and communication) and other; they add up to it. On
a GPU, forward, backward and update are times between events on the device, which are read once, after the update; what
backward passes reduce in the meantime (ZeRO 2 and 3) is in backward. On a CPU they are times of the host.

MFU counts the model's own work (model/accounting.py; never recomputation) over the device's dense bf16 peak by
datasheet, in the two conventions in use: `mfu` takes attention in full (PaLM, OLMo-core, torchtitan), `mfu_causal` only
the half that a causal kernel must do. A device that train/devices.py does not have gets no MFU and one warning. The
peak of memory stands beside the planned one (train/engine/memory.py), which `python -m launch plan` prints.
"""

import logging
from collections.abc import Callable

import torch

from report.metrics import (
    BACKWARD_SECONDS,
    DATA_SECONDS,
    FORWARD_SECONDS,
    MFU,
    MFU_CAUSAL,
    OTHER_SECONDS,
    PEAK_GIB,
    PLANNED_GIB,
    STEP_SECONDS,
    TOKENS_PER_SECOND,
    UPDATE_SECONDS,
)
from train.callbacks.callback import Callback, TrainerInterface
from train.devices import bf16_peak
from train.engine.memory import Memory

logger = logging.getLogger(__name__)


class Throughput(Callback):
    """Records throughput/* and memory/* at every step."""

    def __init__(self, tokens: int, flops: Callable[..., float], planned: Callable[[int], Memory]) -> None:
        """Takes the tokens of a step, FLOPs per token by `causal`, and the memory that is planned for so many ranks."""
        self._tokens = tokens
        self._flops = {MFU: flops(causal=False), MFU_CAUSAL: flops(causal=True)}
        self._plan = planned
        self._peak: float | None = None
        self._planned = 0

    def on_start(self, trainer: TrainerInterface) -> None:
        if trainer.engine.device.type != "cuda":
            return
        self._planned = self._plan(trainer.ranks.world_size).peak
        name = torch.cuda.get_device_name(trainer.engine.device)
        self._peak = bf16_peak(name)
        if self._peak is None and trainer.ranks.is_main:
            logger.warning("the peak of %r is not known (train/devices.py): no MFU is reported", name)

    def on_update(self, trainer: TrainerInterface) -> None:
        rate = self._tokens / trainer.step_seconds
        trainer.record(TOKENS_PER_SECOND, rate)
        trainer.record(STEP_SECONDS, trainer.step_seconds)
        for name, seconds in phases(trainer).items():
            trainer.record(name, seconds)
        if self._peak is not None:
            for name, flops in self._flops.items():
                trainer.record(name, rate * flops / (self._peak * trainer.ranks.world_size))
        if trainer.engine.device.type == "cuda":
            trainer.record(PEAK_GIB, torch.cuda.max_memory_allocated(trainer.engine.device) / 2**30)
            trainer.record(PLANNED_GIB, self._planned / 2**30)


def phases(trainer: TrainerInterface) -> dict[str, float]:
    """Returns the seconds of the last step by phase; `other` is what is left of it, at least 0."""
    engine = trainer.engine
    known = {
        DATA_SECONDS: trainer.data_seconds,
        FORWARD_SECONDS: engine.forward_seconds,
        BACKWARD_SECONDS: engine.backward_seconds,
        UPDATE_SECONDS: engine.update_seconds,
    }
    return known | {OTHER_SECONDS: max(0.0, trainer.step_seconds - sum(known.values()))}
