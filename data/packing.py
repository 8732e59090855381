"""Documents into rows: tokens and EOS, one document after the other, cut every `row_length` tokens.

Rows have one source and no padding; a document that does not fit goes on in the next row of the same stream and source.
"""

from typing import NamedTuple

import numpy as np

from data.order import Source, Unit
from data.tokenizer import DocumentEncoder


class Cursor(NamedTuple):
    """Where a stream stands in a source: the next token to read."""

    epoch: int = 0
    group: int = 0
    unit: int = 0
    token: int = 0


class RowPacker:
    """The endless rows of one (stream, source); `cursor` is all there is to its state."""

    def __init__(self, source: Source, encoder: DocumentEncoder, stream: int, row_length: int, cursor: Cursor) -> None:
        self.cursor = cursor
        self._source = source
        self._encoder = encoder
        self._stream = stream
        self._row_length = row_length
        self._tokens: np.ndarray | None = None  # of the unit at the cursor

    def next_row(self) -> np.ndarray:
        """The next `row_length` tokens, uint32."""
        row = np.empty(self._row_length, np.uint32)
        filled = 0
        while filled < len(row):
            if self._tokens is None:
                self._tokens = self._load_unit()
            piece = self._tokens[self.cursor.token :][: len(row) - filled]
            row[filled : filled + len(piece)] = piece
            filled += len(piece)
            self._advance(len(piece))
        return row

    def _advance(self, num_tokens: int) -> None:
        assert self._tokens is not None
        token = self.cursor.token + num_tokens
        if token < len(self._tokens):
            self.cursor = self.cursor._replace(token=token)
        else:
            self.cursor = self.cursor._replace(unit=self.cursor.unit + 1, token=0)
            self._tokens = None

    def _load_unit(self) -> np.ndarray:
        """The tokens of the unit at the cursor, which moves on to the next group or epoch if there is no such unit."""
        any_units = self.cursor.group > 0 or self.cursor.unit > 0
        while True:
            group = self._source.group(self.cursor.epoch, self.cursor.group)
            self._source.look_ahead(self.cursor.epoch, self.cursor.group)
            any_units = any_units or len(group.units) > 0
            units = group.share(self._stream, self._source.num_streams)
            if self.cursor.unit < len(units):
                unit = Unit(*map(int, units[self.cursor.unit]))
                try:
                    documents = group.files[unit.file].read_frame(unit.frame, unit.start, unit.step)
                except FileNotFoundError:  # another process has made room with it
                    self._source.forget(self.cursor.epoch, self.cursor.group)
                    continue
                return self._encoder.encode(documents)
            if self.cursor.group + 1 < self._source.num_groups:
                self.cursor = Cursor(self.cursor.epoch, self.cursor.group + 1)
            elif any_units:
                self.cursor = Cursor(self.cursor.epoch + 1)
            else:
                raise self._source.empty()
