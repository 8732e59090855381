"""Tokens per second, model FLOPs utilisation, the wait for data, and the peak of device memory.

MFU counts the model's own work (model/accounting.py; never recomputation) over the device's dense bf16 peak by
datasheet, in the two conventions in use: `mfu` takes attention in full (PaLM, OLMo-core, torchtitan), `mfu_causal` only
the half that a causal kernel must do. A device that is not in the table gets no MFU and one warning, never a guess.
"""

import logging
import re

import torch

from model.accounting import flops_per_token
from model.config import ModelConfig, PositionsConfig
from report.metrics import DATA_SECONDS, MFU, MFU_CAUSAL, PEAK_GIB, STEP_SECONDS, TOKENS_PER_SECOND
from train.callbacks.callback import Callback, TrainerInterface

logger = logging.getLogger(__name__)

# Dense bf16 FLOP/s by datasheet. The first name that the device's own name contains, as whole words, counts.
BF16_PEAK = {
    "H200": 989.5e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989.5e12,
    "GH200": 989.5e12,
    "H800": 989.5e12,
    "H20": 148e12,
    "GB200": 2500e12,
    "B200": 2250e12,
    "A100": 312e12,
    "A800": 312e12,
    "L40S": 362e12,
    "L40": 181e12,
    "L4": 121e12,
    "A40": 149.7e12,
    "A10G": 70e12,
    "RTX 4090": 165.2e12,
    "RTX 3090": 71e12,
}


def bf16_peak(device_name: str) -> float | None:
    """Returns the dense bf16 FLOP/s of a device by its name, or None if the table does not have it."""
    return next((peak for name, peak in BF16_PEAK.items() if re.search(rf"\b{name}\b", device_name)), None)


class Throughput(Callback):
    """Records throughput/* and memory/* at every step."""

    def __init__(
        self, model: ModelConfig, positions: PositionsConfig, sequence_length: int, global_batch_size: int
    ) -> None:
        self._tokens = global_batch_size * sequence_length
        self._flops = {
            name: flops_per_token(model, positions, sequence_length, causal=causal)
            for name, causal in ((MFU, False), (MFU_CAUSAL, True))
        }
        self._peak: float | None = None

    def on_start(self, trainer: TrainerInterface) -> None:
        if trainer.engine.device.type != "cuda":
            return
        name = torch.cuda.get_device_name(trainer.engine.device)
        self._peak = bf16_peak(name)
        if self._peak is None and trainer.ranks.is_main:
            logger.warning("the peak of %r is not known (train/callbacks/throughput.py): no MFU is reported", name)

    def on_update(self, trainer: TrainerInterface) -> None:
        rate = self._tokens / trainer.step_seconds
        trainer.record(TOKENS_PER_SECOND, rate)
        trainer.record(STEP_SECONDS, trainer.step_seconds)
        trainer.record(DATA_SECONDS, trainer.data_seconds)
        if self._peak is not None:
            for name, flops in self._flops.items():
                trainer.record(name, rate * flops / (self._peak * trainer.ranks.world_size))
        if trainer.engine.device.type == "cuda":
            trainer.record(PEAK_GIB, torch.cuda.max_memory_allocated(trainer.engine.device) / 2**30)
