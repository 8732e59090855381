"""Documents into rows: tokens and EOS, one document after the other, cut every `row_length` tokens.

Rows have one source and no padding; a document that does not fit goes on in the next row of the same stream and source.
"""

from collections import deque
from typing import NamedTuple

import numpy as np

from data.order import Source
from data.tokenizer import DocumentEncoder

CHARACTERS_AT_ONCE = 16384  # about a row of 4,096 tokens; enough to keep all cores busy where there are no workers


class Cursor(NamedTuple):
    """Where a stream stands in a source: the next token to read."""

    epoch: int = 0
    group: int = 0
    unit: int = 0
    document: int = 0
    token: int = 0


class RowPacker:
    """The endless rows of one (stream, source); `cursor` is all there is to its state.

    Documents are encoded a few at a time, from the one at the cursor on: that is what a resumed stream waits for.
    """

    def __init__(self, source: Source, encoder: DocumentEncoder, stream: int, row_length: int, cursor: Cursor) -> None:
        self.cursor = cursor
        self._source = source
        self._encoder = encoder
        self._stream = stream
        self._row_length = row_length
        self._texts: list[str] = []  # of the unit at the cursor, from its document on; not encoded yet
        self._encoded: deque[np.ndarray] = deque()  # those before them, the first of which is at the cursor

    def next_row(self) -> np.ndarray:
        """The next `row_length` tokens, uint32."""
        row = np.empty(self._row_length, np.uint32)
        filled = 0
        while filled < len(row):
            if not self._encoded:
                self._encode_some()
            piece = self._encoded[0][self.cursor.token :][: len(row) - filled]
            row[filled : filled + len(piece)] = piece
            filled += len(piece)
            self._advance(len(piece))
        return row

    def _advance(self, num_tokens: int) -> None:
        token = self.cursor.token + num_tokens
        if token < len(self._encoded[0]):
            self.cursor = self.cursor._replace(token=token)
            return
        self._encoded.popleft()
        if self._encoded or self._texts:
            self.cursor = self.cursor._replace(document=self.cursor.document + 1, token=0)
        else:
            self.cursor = self.cursor._replace(unit=self.cursor.unit + 1, document=0, token=0)

    def _encode_some(self) -> None:
        while not self._texts:
            self._texts = self._load_unit()[self.cursor.document :]
            if not self._texts:  # the unit has become shorter, with other files that somebody has accepted
                self.cursor = self.cursor._replace(unit=self.cursor.unit + 1, document=0, token=0)
        num_characters = np.cumsum([len(text) for text in self._texts])
        some = int(np.searchsorted(num_characters, CHARACTERS_AT_ONCE)) + 1
        self._encoded.extend(self._encoder.encode_each(self._texts[:some]))
        del self._texts[:some]

    def _load_unit(self) -> list[str]:
        """The documents of the unit at the cursor, which moves on to the next group or epoch if there is none."""
        any_units = self.cursor.group > 0 or self.cursor.unit > 0
        while True:
            at = self.cursor
            any_units = any_units or len(self._source.group(at.epoch, at.group).units) > 0
            self._source.look_ahead(at.epoch, at.group)
            documents = self._source.documents(at.epoch, at.group, self._stream, at.unit)
            if documents is not None:
                return documents
            if at.group + 1 < self._source.num_groups:
                self.cursor = Cursor(at.epoch, at.group + 1)
            elif any_units:
                self.cursor = Cursor(at.epoch + 1)
            else:
                raise self._source.empty()
