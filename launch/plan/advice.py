"""What to change where a run does not fit: of all settings that do, the fastest, and of equals the one with fewest."""

import copy
import itertools
from dataclasses import dataclass, replace

from launch.plan.estimate import Cluster, Estimate, estimate
from train.config import RunConfig
from train.errors import TrainError

MOST_GPUS = 1024
SMALL_CHUNK = 1024


@dataclass(frozen=True)
class Advice:
    """Settings with which a run fits."""

    arguments: list[str]
    """As `key=value`."""
    estimate: Estimate


def advise(config: RunConfig, cluster: Cluster, mfu: float) -> Advice | None:
    """Returns settings that fit on these GPUs, or else on the fewest that a batch can be split over; None if none do.

    Positions, batch and length stay: the run learns the same.
    """
    gpus = cluster.gpus
    while gpus <= MOST_GPUS:
        if config.global_batch_size % gpus == 0:
            found = [advice for advice in _variants(config, replace(cluster, gpus=gpus), mfu) if advice.estimate.fits]
            if found:
                return min(found, key=lambda advice: (round(advice.estimate.step_seconds, 3), len(advice.arguments)))
        gpus *= 2
    return None


def _variants(config: RunConfig, cluster: Cluster, mfu: float) -> list[Advice]:
    share = config.global_batch_size // cluster.gpus
    most = min(share, config.micro_batch_size or share)
    choices = itertools.product(
        [rows for rows in range(most, 0, -1) if share % rows == 0],
        range(max(1, config.engine.zero_stage), 4),
        dict.fromkeys([config.model.activation_checkpointing, True]),
        dict.fromkeys([config.model.loss_chunk_rows, min(config.model.loss_chunk_rows, SMALL_CHUNK)]),
    )
    return [_variant(config, cluster, mfu, *choice) for choice in choices]


def _variant(
    config: RunConfig, cluster: Cluster, mfu: float, rows: int, stage: int, checkpointing: bool, chunk: int
) -> Advice:
    changed = copy.deepcopy(config)
    changed.micro_batch_size = rows
    changed.engine.zero_stage = stage
    changed.model.activation_checkpointing = checkpointing
    changed.model.loss_chunk_rows = chunk
    settings = {
        "micro_batch_size": (config.micro_batch_size, rows),
        "engine.zero_stage": (config.engine.zero_stage, stage),
        "model.activation_checkpointing": (config.model.activation_checkpointing, checkpointing),
        "model.loss_chunk_rows": (config.model.loss_chunk_rows, chunk),
    }
    arguments = [f"{key}={str(new).lower()}" for key, (old, new) in settings.items() if new != old]
    return Advice(arguments, estimate(changed, cluster, mfu))


def check_gpus(config: RunConfig, gpus: int) -> None:
    """Raises TrainError, with a number that works, if the batch cannot be split over so many GPUs."""
    if config.global_batch_size % gpus:
        fitting = [number for number in range(1, gpus + 1) if config.global_batch_size % number == 0]
        raise TrainError(
            f"--gpus {gpus}: global_batch_size={config.global_batch_size} cannot be split over them; "
            f"use --gpus {fitting[-1]}, or a global_batch_size that is a multiple of {gpus}"
        )
