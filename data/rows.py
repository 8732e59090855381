"""The interface of a backend: it reads any range of the rows of the global batch, from any cursor on.

The global batch is divided into `num_slots` slots of consecutive rows, and a process reads a range of slots: a backend
knows nothing else of ranks and workers. Text has one slot per logical stream, token files have one per row.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from data.mix import SourceMix


@dataclass(frozen=True)
class Rows:
    """Consecutive rows of one global batch, and the cursors of their streams after them."""

    tokens: np.ndarray
    """uint32 `[R, T]`."""
    loss_mask: np.ndarray
    """bool `[R]`; False: the row is masked out of the loss."""
    sources: np.ndarray
    """int16 `[R]`, index into `source_names`."""
    cursors: dict[str, Any]
    """By name of the stream; JSON-serialisable."""
    encoder: str = ""
    """The library that encodes text in the process that read them; empty: none."""
    encoder_problem: str = ""
    """Why it is not the fast one; empty if it is, or may still become it."""


class Backend(Protocol):
    """Rows by slot; picklable, so that worker processes can read too."""

    kind: str
    """The value of `data.kind`."""
    source_names: tuple[str, ...]
    """The names that `Rows.sources` counts."""
    fingerprint: dict[str, str]
    """What order and content depend on, as key -> short value."""
    max_token_id: int | None
    """Largest id that can occur; None: not known."""
    eos_token_id: int
    """The id that ends every document."""
    num_slots: int
    """Slots of the global batch."""
    num_streams: int
    """Streams that have a cursor."""

    def start(self, slots: range) -> dict[str, Any]:
        """Returns the cursors of these slots' streams before the first step."""
        ...

    def restore(self, cursors: Mapping[str, Any], source_names: Sequence[str]) -> dict[str, Any]:
        """Returns saved cursors, adapted if they were saved with other sources or files."""
        ...

    def epochs(self, cursors: Mapping[str, Any]) -> list[int]:
        """Returns, for each source, the epoch (from 0) that these cursors have reached, or half of them."""
        ...

    def mix(self) -> list[SourceMix]:
        """Returns the share and, as far as it is known, the size of each source; may read some documents."""
        ...

    def read(self, slots: range, cursors: Mapping[str, Any]) -> Iterator[Rows]:
        """Yields the rows of these slots, step by step without end, from the given cursors on; raises DataError."""
        ...


def document_boundaries(row: np.ndarray, eos_token_id: int) -> np.ndarray:
    """Returns the cumulative document lengths within a row `[T]`: int32 `[0, cuts after each EOS ..., T]`."""
    cuts = np.flatnonzero(row[:-1] == eos_token_id) + 1
    return np.concatenate(([0], cuts, [len(row)])).astype(np.int32)


def split_evenly(num_items: int, part: int, num_parts: int) -> range:
    """Returns the `part`-th of `num_parts` consecutive, nearly equal ranges of `range(num_items)`."""
    return range(num_items * part // num_parts, num_items * (part + 1) // num_parts)
