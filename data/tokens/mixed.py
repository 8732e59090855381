"""Several lists of token files with weights: each row's source, and its place in it, as a pure function of its number.

Rows of the run are numbered from 0 through all steps. The source of a row follows from its number and the weights alone
(text/mixing.py, with one stream), so a source's share is right to within a few rows at any time. The n-th row that a
source gives is the n-th of its own epochs, each in an order like the published one: shuffled by `data.seed` and the
epoch. The cursor is the number of the next row, and how many rows each source has given.
"""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from data.config import DataConfig, SourceConfig, TokenDtype
from data.errors import DataError
from data.fetch.download import download, is_present
from data.fetch.files import DataFile, digest_files
from data.fetch.roots import Root
from data.mix import SourceMix
from data.rows import Rows
from data.text.mixing import Mixer
from data.tokens.backend import STREAM, TokenBackend
from data.tokens.files import list_token_files
from data.tokens.layout import layout_of
from data.tokens.published import kept_order

KEPT_ORDERS = 2  # of each source: an epoch, and the next one when it begins in the middle of a step


class MixedTokenBackend(TokenBackend):
    """Rows of several sources of token files; one slot per row of the batch."""

    kind = "tokens of several sources"

    def __init__(self, config: DataConfig, sequence_length: int, global_batch_size: int) -> None:
        """Checks that all files exist; raises DataError for one that is missing or no token file, and for no rows."""
        super().__init__(config, sequence_length, global_batch_size)
        counts = np.bincount(self.source_of_file, self.rows.rows_per_file, len(self.source_names)).astype(np.int64)
        if not counts.all():
            name = self.source_names[int(counts.argmin())]
            raise DataError(
                f"data.sources.{name}: its files hold no row of {sequence_length} tokens; add longer files, or give it "
                "weight 0"
            )
        self._num_rows = counts.tolist()
        self._first_rows = (np.cumsum(counts) - counts).tolist()
        self._weights = [config.sources[name].weight for name in self.source_names]
        self._max_epochs = [config.sources[name].max_epochs for name in self.source_names]
        self._mixer = Mixer(self._weights, 1, config.seed)
        self._orders: dict[tuple[int, int], np.ndarray] = {}

    def start(self, slots: range) -> dict[str, Any]:
        """Returns the cursor of the first row."""
        return {STREAM: {"row": 0, "given": [0] * len(self.source_names)}}

    def restore(self, cursors: Mapping[str, Any], source_names: Sequence[str]) -> dict[str, Any]:
        """Returns the cursor with each source at its own place, and a new source at its beginning."""
        saved = dict(zip(source_names, cursors[STREAM]["given"], strict=True))
        return {STREAM: {"row": cursors[STREAM]["row"], "given": [saved.get(name, 0) for name in self.source_names]}}

    def epochs(self, cursors: Mapping[str, Any]) -> list[int]:
        """Returns the epoch, from 0, of the last row that each source has given."""
        given = cursors[STREAM]["given"]
        return [max(0, count - 1) // num_rows for count, num_rows in zip(given, self._num_rows, strict=True)]

    def mix(self) -> list[SourceMix]:
        """Returns what there is of each source."""
        total = sum(self._weights)
        return [
            SourceMix(name, weight / total, float(num_rows * self.rows.row_length), True, limit)
            for name, weight, num_rows, limit in zip(
                self.source_names, self._weights, self._num_rows, self._max_epochs, strict=True
            )
        ]

    def read(self, slots: range, cursors: Mapping[str, Any]) -> Iterator[Rows]:
        """Yields the rows of these slots; raises DataError."""
        row, given = cursors[STREAM]["row"], list(cursors[STREAM]["given"])
        self._fetch_files(given)
        after: deque[dict[str, Any]] = deque()
        for numbers, tokens in self._tokens_of(self._steps(slots, row, given, after), len(slots)):
            yield self._as_rows(numbers, tokens, after.popleft())

    def _steps(self, slots: range, row: int, given: list[int], after: deque[dict[str, Any]]) -> Iterator[np.ndarray]:
        """Yields the rows of these slots in each step, and appends the cursor after it to `after`."""
        while True:
            numbers = np.empty(self.num_slots, np.int64)
            for slot in range(self.num_slots):
                source = self._mixer.source(0, row + slot)
                numbers[slot] = self._row_number(source, given[source])
                given[source] += 1
            row += self.num_slots
            after.append({"row": row, "given": list(given)})
            yield numbers[slots.start : slots.stop]

    def _row_number(self, source: int, number: int) -> int:
        """Returns which row of all files is the `number`-th that a source gives."""
        epoch, place = divmod(number, self._num_rows[source])
        key = (source, epoch)
        if key not in self._orders:
            own = [kept for kept in self._orders if kept[0] == source]
            if len(own) == KEPT_ORDERS:
                del self._orders[own[0]]
            self._orders[key] = kept_order(
                self._order_folder, self._num_rows[source], self.seed, epoch, self._background.submit
            )
        return self._first_rows[source] + int(self._orders[key][place])

    def _fetch_files(self, given: Sequence[int]) -> None:
        """Starts to fetch missing files, in the order in which each source needs them, all sources in turn."""
        if self.rows.ranges is not None or all(is_present(file) for file in self.rows.files):
            return
        by_source = []
        for source, (first, num_rows) in enumerate(zip(self._first_rows, self._num_rows, strict=True)):
            order = kept_order(self._order_folder, num_rows, self.seed, given[source] // num_rows)
            wanted, place = np.unique(self.rows.locate(first + order[given[source] % num_rows :]), return_index=True)
            by_source.append(wanted[np.argsort(place)].tolist())
        for index in chain.from_iterable(zip_longest(*by_source)):
            if index is not None:
                self._background.submit(partial(download, self.rows.files[index], wait=False))

    def _find(self, config: DataConfig, root: Root) -> tuple[list[DataFile], list[str], list[TokenDtype]]:
        found = token_sources(config, root)
        files = list(chain.from_iterable(found.values()))
        names = [name for name, own in found.items() for _ in own]
        return files, names, [config.sources[name].token_dtype for name in names]

    def _describe_files(self, config: DataConfig, files: Sequence[DataFile]) -> dict[str, str]:
        values = {"data.sources": " ".join(self.source_names)}
        total = sum(config.sources[name].weight for name in self.source_names)
        for number, name in enumerate(self.source_names):
            source, key = config.sources[name], f"data.sources.{name}"
            own = [file for file, of in zip(files, self.source_of_file, strict=True) if of == number]
            values[f"{key}.weight"] = f"{source.weight / total:.12g}"
            values[f"{key}.files"] = f"{len(own)} files {digest_files(own, contents=False)}"
            if source.token_dtype is not TokenDtype.uint32:
                values[f"{key}.token_dtype"] = source.token_dtype.value
        return values


def token_sources(config: DataConfig, root: Root) -> dict[str, list[DataFile]]:
    """Returns the token files of each source with a weight above 0, in order; raises DataError."""
    return {
        name: _files_of(source, f"data.sources.{name}", root)
        for name, source in config.sources.items()
        if source.weight > 0.0
    }


def _files_of(source: SourceConfig, key: str, root: Root) -> list[DataFile]:
    if source.file_list is not None:
        return list_token_files(root, Path(source.file_list).expanduser(), f"{key}.file_list", source.token_dtype)
    files = root.find(source.files, f"{key}.files")
    for file in files:
        layout_of(file, source.token_dtype)
    return files
