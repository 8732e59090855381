"""The GPU of a rank: which one it takes, that ranks do not share one, and that GPUs are not left unused in silence."""

import os
import subprocess
from collections.abc import Sequence
from typing import NoReturn

import torch

from train.errors import TrainError

LISTING = ["nvidia-smi", "-L"]  # a line per GPU, with any driver


def listed_gpus() -> int:
    """Returns the GPUs that nvidia-smi lists here; 0 without it, or where CUDA_VISIBLE_DEVICES hides all."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and visible.strip() in ("", "-1"):
        return 0
    try:
        listing = subprocess.run(LISTING, capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):
        return 0
    return sum(line.startswith("GPU ") for line in listing.stdout.splitlines())


def refuse_unused(num_gpus: int, cuda: str | None, reason: str) -> NoReturn:
    """Raises TrainError for GPUs that torch cannot use: a run would train on the CPU for weeks.

    `cuda` is the version that torch was built for, None for a build for CPUs; `reason` is what torch says.
    """
    if cuda is None:
        problem, remedy = "torch is a build for CPUs", "install the CUDA build of torch (README, Install)"
    else:
        problem = f"torch is built for CUDA {cuda}: {reason}"
        remedy = "update the driver, or install torch for an older CUDA (README, Install)"
    raise TrainError(
        f"{num_gpus} GPUs are here, but torch cannot use them; {problem}. {remedy[0].upper()}{remedy[1:]}; "
        "to train on the CPU, set CUDA_VISIBLE_DEVICES to nothing"
    )


def why_unusable() -> str:
    """Returns in one line what torch says when it is asked for CUDA."""
    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:
        return str(error).strip().partition("\n")[0].partition(". ")[0]
    return "torch.cuda.is_available() is false"


def own_gpu(rank: int, local_rank: int, num_visible: int) -> int:
    """Returns the number of the rank's GPU among those that it sees.

    A scheduler may show each rank its own GPU alone (`--gpus-per-task=1`): it is number 0 for all of them. Raises
    TrainError if there are several, but fewer than ranks.
    """
    if num_visible == 1:
        return 0
    if local_rank >= num_visible:
        raise TrainError(f"rank {rank} has no GPU: {num_visible} are visible; lower launch.processes")
    return local_rank


def refuse_shared(places: Sequence[tuple[str, str]]) -> None:
    """Raises TrainError if two ranks have the same (machine, GPU)."""
    for rank, place in enumerate(places):
        first = places.index(place)
        if first != rank:
            raise TrainError(
                f"ranks {first} and {rank} have the same GPU of {place[0]}: lower launch.processes, or give each task "
                "a GPU of its own"
            )
