"""The losses of documents' tokens, summed by ranges of their indices: a row on disk for each document.

Index t is that of the token that is read; its loss is that of token t + 1, as in `eval/position/...`. Without YaRN, a
token's loss depends on nothing that comes after it: one pass over a document at its longest length gives all lengths.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from common.json_lines import JsonLines, read_json_lines
from evaluate.perplexity.documents import Document
from evaluate.subject import ModelSubject

Bin = tuple[int, int]
Row = dict[str, Any]
Report = Callable[[str, int, int], None]  # variant, documents done, of


@dataclass(frozen=True)
class Variant:
    """A length, with YaRN of a factor or without."""

    length: int
    factor: float | None = None

    @property
    def name(self) -> str:
        """As in 8192-yarn-2, which names the file of its rows."""
        return str(self.length) if self.factor is None else f"{self.length}-yarn-{self.factor:g}"


class Reader(Protocol):
    """What measures documents."""

    def losses(self, tokens: np.ndarray, factor: float | None) -> np.ndarray:
        """Returns the loss of each token after the first, in nats: float64 `[n - 1]`."""


class ModelReader:
    """A model that reads documents, with YaRN of any factor. Its weights are in memory once."""

    def __init__(self, subject: Callable[[float | None], ModelSubject]) -> None:
        self._make = subject
        self._subjects: dict[float | None, ModelSubject] = {}

    @torch.no_grad()
    def losses(self, tokens: np.ndarray, factor: float | None) -> np.ndarray:
        """Returns the loss of each token after the first, in nats: float64 `[n - 1]`.

        Logits are in memory for `model.loss_chunk_rows` tokens at a time.
        """
        if factor not in self._subjects:
            self._subjects[factor] = self._make(factor)
        subject = self._subjects[factor]
        text = torch.from_numpy(tokens).to(subject.device)
        ce_bt = subject.model(text[None, :-1], text[None, 1:]).ce_bt
        assert ce_bt is not None
        found: np.ndarray = ce_bt[0].double().cpu().numpy()
        return found


def bins(length: int) -> list[Bin]:
    """Returns the ranges [start, stop) of indices: 0-1, 1-2, 2-4, 4-8 and so on; the last ends at the length."""
    ends = [1 << power for power in range(length.bit_length()) if 1 << power < length]
    return list(zip([0, *ends], [*ends, length], strict=True))


class Rows:
    """The rows of one model: a file for each variant, in which each document is named by its tokens."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read(self, variant: Variant) -> dict[str, Row]:
        """Returns the rows that there are, by document."""
        return {row["document"]: row for row in read_json_lines(self._path(variant))}

    def append(self, variant: Variant, document: Document, losses: np.ndarray) -> Row:
        """Writes and returns the row of a document, from the losses of all its tokens after the first."""
        ranges = bins(variant.length)
        parts = {f"{start}-{stop}": losses[start : min(stop, variant.length - 1)] for start, stop in ranges}
        row = {
            "document": document.digest(variant.length),
            "source": document.source,
            "bins": {name: [float(part.sum()), len(part)] for name, part in parts.items() if len(part)},
        }
        JsonLines(self._path(variant)).append(row)
        return row

    def _path(self, variant: Variant) -> Path:
        return self._folder / f"{variant.name}.jsonl"


def measure(
    reader: Reader, by_length: dict[int, list[Document]], variants: Sequence[Variant], rows: Rows, report: Report
) -> dict[Variant, list[Row]]:
    """Reads what has no row yet, and returns the rows of every variant in the order of its documents."""
    found = {variant: rows.read(variant) for variant in variants}
    done = dict.fromkeys(variants, 0)
    every = {id(document): document for documents in by_length.values() for document in documents}
    for document in every.values():
        used = [variant for variant in variants if any(document is each for each in by_length[variant.length])]
        losses: dict[float | None, np.ndarray] = {}
        for variant in used:
            if document.digest(variant.length) not in found[variant]:
                if variant.factor is None:
                    length = max(each.length for each in used if each.factor is None)
                    if None not in losses:
                        losses[None] = reader.losses(document.tokens[:length], None)
                    own = losses[None]
                else:
                    own = reader.losses(document.tokens[: variant.length], variant.factor)
                row = rows.append(variant, document, own)
                found[variant][row["document"]] = row
            done[variant] += 1
            report(variant.name, done[variant], len(by_length[variant.length]))
    return {
        variant: [found[variant][document.digest(variant.length)] for document in by_length[variant.length]]
        for variant in variants
    }
