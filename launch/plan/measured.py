"""Measured speeds, from benchmarks/results/throughput-*.json: what replaces the assumed MFU for a GPU that has some.

A file is one JSON object: `"device"`, the GPU's own name; `"date"`; `"versions"`, an object of texts; and `"steps"`, a
list with one object per measured setting, whose keys are the fields of `Measurement` below. Speeds are of whole steps,
over all GPUs. `planned_gib` is what the plan said for the same setting, so that a plan can say how far it was off.
"""

import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from common.files import write_text_whole
from model.accounting import num_parameters
from train.config import RunConfig
from train.devices import Device, find_device
from train.errors import TrainError

RESULTS = Path(__file__).parents[2] / "benchmarks/results"
PATTERN = "throughput-*.json"


@dataclass(frozen=True)
class Measurement:
    """One measured setting."""

    gpus: int
    parameters: int
    positions: str
    sequence_length: int
    micro_batch_size: int
    zero_stage: int
    activation_checkpointing: bool
    tokens_per_second: float
    """Over all GPUs."""
    mfu: float
    """Attention counted in full, recomputation not."""
    peak_gib: float
    planned_gib: float


@dataclass(frozen=True)
class Measured:
    """The measurement that is closest to a run, and where it is from."""

    path: Path
    device: str
    best: Measurement

    @property
    def text(self) -> str:
        """What the speed is based on, for people."""
        best = self.best
        return (
            f"measured: {best.mfu:.1%} MFU, {best.tokens_per_second:,.0f} tokens/s on {best.gpus} x {self.device} with "
            f"{best.parameters / 1e9:.2f}B parameters; peak {best.peak_gib:.1f} GiB where {best.planned_gib:.1f} were "
            f"planned ({self.path.name})"
        )

    @property
    def mfu(self) -> float:
        """The measured MFU, without the repetition of blocks that checkpointing adds and an estimate counts itself."""
        return self.best.mfu * (4 / 3 if self.best.activation_checkpointing else 1)


def save(path: Path, device: str, date: str, versions: dict[str, str], steps: Iterable[Measurement]) -> None:
    """Writes a file of measurements."""
    content = {"device": device, "date": date, "versions": versions, "steps": [asdict(step) for step in steps]}
    write_text_whole(path, json.dumps(content, indent=1) + "\n", durable=False)


def closest(config: RunConfig, device: Device, folder: Path = RESULTS) -> Measured | None:
    """Returns the measurement on this device of the most similar size, of a similar setting, or None.

    Raises TrainError for a file that is no result.
    """
    size = num_parameters(config.model, config.positions)

    def distance(measured: Measured) -> tuple[float, bool, bool]:
        best = measured.best
        return (
            round(abs(math.log(best.parameters / size)), 1),
            best.activation_checkpointing != config.model.activation_checkpointing,
            best.micro_batch_size != config.micro_batch_size,
        )

    found = [measured for path in sorted(folder.glob(PATTERN)) for measured in _read(path)]
    return min((one for one in found if find_device(one.device) == device), key=distance, default=None)


def _read(path: Path) -> list[Measured]:
    try:
        content: dict[str, Any] = json.loads(path.read_text())
        names = {field.name for field in fields(Measurement)}
        if wrong := [name for step in content["steps"] for name in step.keys() ^ names]:
            raise TrainError(f"{path}: a step has {wrong[0]!r} too much or not at all; it needs {sorted(names)}")
        return [Measured(path, str(content["device"]), Measurement(**step)) for step in content["steps"]]
    except (ValueError, KeyError, TypeError, OSError) as error:
        if isinstance(error, TrainError):
            raise
        raise TrainError(f"{path} is no result of measurements ({error!r}): see launch/plan/measured.py") from error
