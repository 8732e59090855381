"""Positions of the probe texts at one step, as a small file: what curves of z against the token index are made from.

runs/NAME/probes/step-NNNNNNN.npz holds `layers` [L], and for each text `TEXT.z` [L, H, T] float32 and `TEXT.pieces`
[T], what each token spells. Plain numpy, so that a report can be written where no torch is loaded.
"""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class ProbeText:
    """A text as a model reads it."""

    name: str
    tokens: np.ndarray
    """int64 [T]."""
    pieces: list[str]
    """The text of each token."""


@dataclass(frozen=True)
class ProbePositions:
    """What a model made of all texts at one step."""

    step: int
    layers: list[int]
    pieces: dict[str, list[str]]
    """Text of each token, by probe."""
    z: dict[str, np.ndarray]
    """float32 [L, H, T], by probe."""


def write_probes(path: Path, layers: Sequence[int], texts: Sequence[ProbeText], z: Mapping[str, np.ndarray]) -> None:
    """Write the positions [L, H, T] of each text in one rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays: dict[str, np.ndarray] = {"layers": np.array(layers, np.int64)}
    for text in texts:
        arrays[f"{text.name}.z"] = z[text.name].astype(np.float32)
        arrays[f"{text.name}.pieces"] = np.array(text.pieces)
    part = path.with_suffix(f".part-{os.getpid()}")
    with part.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)
    part.replace(path)


def probe_files(folder: Path) -> dict[int, Path]:
    """The files below `folder` by their step, in order."""
    named = {path: re.fullmatch(r"step-(\d{7,})", path.stem) for path in folder.glob("step-*.npz")}
    return dict(sorted((int(match[1]), path) for path, match in named.items() if match))


def read_probes(step: int, path: Path) -> ProbePositions | None:
    """What `write_probes` wrote; None if the file is none of ours, or damaged."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            names = [name.removesuffix(".z") for name in arrays.files if name.endswith(".z")]
            return ProbePositions(
                step,
                arrays["layers"].tolist(),
                {name: arrays[f"{name}.pieces"].tolist() for name in names},
                {name: arrays[f"{name}.z"] for name in names},
            )
    except Exception:  # damaged bytes make zipfile, zlib and numpy raise a dozen kinds
        return None
