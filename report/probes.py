"""The positions of the probe texts at one step, as a small file: curves of z against the token index are drawn from it.

runs/NAME/probes/step-NNNNNNN.npz holds `layers` [L], and for each text `TEXT.z` [L, H, T] float32 and `TEXT.pieces`
[T], the text of each token. Plain NumPy, so that a page is written without torch.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.files import write_whole


@dataclass(frozen=True)
class ProbeText:
    """A probe text in tokens."""

    name: str
    tokens: np.ndarray
    """int64 [T]."""
    pieces: list[str]
    """The text of each token."""


@dataclass(frozen=True)
class ProbePositions:
    """The positions of all texts at one step."""

    step: int
    layers: list[int]
    pieces: dict[str, list[str]]
    """Text of each token, by probe text."""
    z: dict[str, np.ndarray]
    """float32 [L, H, T], by probe text."""


def write_probes(path: Path, layers: Sequence[int], texts: Sequence[ProbeText], z: Mapping[str, np.ndarray]) -> None:
    """Writes the positions [L, H, T] of each text into one file, whole. Raises OSError."""
    arrays: dict[str, np.ndarray] = {"layers": np.array(layers, np.int64)}
    for text in texts:
        arrays[f"{text.name}.z"] = z[text.name].astype(np.float32)
        arrays[f"{text.name}.pieces"] = np.array(text.pieces)
    path.parent.mkdir(parents=True, exist_ok=True)
    with write_whole(path, durable=False) as file:  # a power failure may cost a picture
        np.savez_compressed(file, allow_pickle=False, **arrays)


def probe_files(folder: Path) -> dict[int, Path]:
    """Returns the probe files in `folder` by their step, in order."""
    named = {path: re.fullmatch(r"step-(\d{7,})", path.stem) for path in folder.glob("step-*.npz")}
    return dict(sorted((int(match[1]), path) for path, match in named.items() if match))


def read_probes(step: int, path: Path) -> ProbePositions | None:
    """Returns what `write_probes` wrote; None if the file is not of that kind, or damaged."""
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
