"""The state of this process's random generators, a file per rank."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import torch

from train.distributed import seed_generators


def generator_file(folder: Path, rank: int) -> Path:
    """Where the state of a rank lies in a checkpoint."""
    return folder / f"rng-rank-{rank:05d}.pt"


def generator_state() -> dict[str, Any]:
    """Python's, numpy's, torch's on the CPU and on this process's GPU."""
    return {
        "python": random.getstate(),
        "numpy": np.random.get_state(),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
    }


def set_generator_state(state: dict[str, Any]) -> None:
    """The inverse."""
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


def seed_generators_anew(seed: int, step: int, rank: int) -> None:
    """Seed them for ranks that were not there at this step: a function of the three numbers, and unlike any other's."""
    [value] = np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)
    seed_generators(int(value) % 2**63)
