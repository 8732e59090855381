"""What a backend is: something that reads rows of the global batch, any range of it, from any position.

The global batch is divided into `num_slots` slots of consecutive rows, and a process reads a range of slots: that is
all it knows of ranks and workers. Text has one slot per logical stream, token files one per row.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np


@dataclass(frozen=True)
class Rows:
    """Consecutive rows of one global batch, and where their streams stand after them."""

    tokens: np.ndarray  # uint32 [R, T]
    loss_mask: np.ndarray  # bool [R]
    sources: np.ndarray  # int16 [R]
    positions: dict[str, Any]  # stream name -> JSON-serialisable position


class Backend(Protocol):
    """Rows by slot; picklable, so that worker processes can read too."""

    kind: str
    source_names: tuple[str, ...]
    fingerprint: dict[str, str]
    max_token_id: int | None
    eos_token_id: int
    num_slots: int
    num_streams: int

    def start(self, slots: range) -> dict[str, Any]:
        """The positions of these slots' streams before the first step."""
        ...

    def restore(self, positions: Mapping[str, Any], source_names: Sequence[str]) -> dict[str, Any]:
        """Saved positions, made to fit if they were saved with other sources or files."""
        ...

    def read(self, slots: range, positions: Mapping[str, Any]) -> Iterator[Rows]:
        """The rows of these slots, step by step without end, from the given positions on."""
        ...


def document_boundaries(row: np.ndarray, eos_token_id: int) -> np.ndarray:
    """Cumulative document lengths within a row `[T]`: int32 `[0, cuts after each EOS ..., T]`."""
    cuts = np.flatnonzero(row[:-1] == eos_token_id) + 1
    return np.concatenate(([0], cuts, [len(row)])).astype(np.int32)


def split_evenly(num_items: int, part: int, num_parts: int) -> range:
    """The `part`-th of `num_parts` consecutive, nearly equal ranges of `range(num_items)`."""
    return range(num_items * part // num_parts, num_items * (part + 1) // num_parts)
