"""The state of this process's random generators, a file per rank."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import torch

from train.distributed import seed_generators


def generator_file(folder: Path, rank: int) -> Path:
    """Returns the file of a rank's state in a checkpoint."""
    return folder / f"rng-rank-{rank:05d}.pt"


def generator_state() -> dict[str, Any]:
    """Returns the state of Python's, numpy's and torch's generators on the CPU and on this process's GPU."""
    return {
        "python": random.getstate(),
        "numpy": np.random.get_state(),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
    }


def set_generator_state(state: dict[str, Any]) -> None:
    """Restores what `generator_state` returned."""
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


def reseed_generators(seed: int, step: int, rank: int) -> None:
    """Seeds all generators from these three numbers, for ranks that the checkpoint has no state of."""
    [value] = np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)
    seed_generators(int(value) % 2**63)
