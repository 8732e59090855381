"""Documents into rows: tokens and EOS, one document after the other, cut every `row_length` tokens.

Rows have one source and no padding; a document that does not fit goes on in the next row of the same stream and source.
"""

from typing import NamedTuple

import numpy as np

from data.text.order import Source, no_documents_error
from data.tokenizer import DocumentEncoder, Piece

CHARACTERS_AT_ONCE = 16384  # about a row of 4,096 tokens; enough to keep all cores busy where there are no workers


class Cursor(NamedTuple):
    """The place of a stream in a source: the next token to read."""

    epoch: int = 0
    """Passes over the source."""
    group: int = 0
    """Groups of files read in the epoch."""
    unit: int = 0
    """Units of this stream read in the group."""
    piece: int = 0
    """Pieces read in the unit; a piece is a document, or a part of a very long one."""
    token: int = 0
    """Tokens read in the piece."""


class RowPacker:
    """The endless rows of one (stream, source); `cursor` is its whole state.

    Documents are encoded a few at a time, from the one at the cursor on, so that a resumed stream starts soon.
    """

    def __init__(self, source: Source, encoder: DocumentEncoder, stream: int, row_length: int, cursor: Cursor) -> None:
        self.cursor = cursor
        self._source = source
        self._encoder = encoder
        self._stream = stream
        self._row_length = row_length
        self._pieces: list[Piece] = []  # of the unit at the cursor, not encoded yet
        self._tokens = np.empty(0, np.uint32)  # of the pieces before them, which are encoded
        self._ends = np.empty(0, np.int64)  # of each of those pieces, in the tokens
        self._first_piece = 0  # the number in the unit of the first of them
        self._at = 0  # the place of the cursor in the tokens

    def next_row(self) -> np.ndarray:
        """Returns the next `row_length` tokens, uint32; raises DataError."""
        row = np.empty(self._row_length, np.uint32)
        filled = 0
        while filled < len(row):
            if self._at == len(self._tokens):
                self._encode_some()
            part = self._tokens[self._at : self._at + len(row) - filled]
            row[filled : filled + len(part)] = part
            filled += len(part)
            self._advance(len(part))
        return row

    def _advance(self, num_tokens: int) -> None:
        self._at += num_tokens
        num_passed = int(np.searchsorted(self._ends, self._at, "right"))
        if num_passed < len(self._ends) or self._pieces:
            start = int(self._ends[num_passed - 1]) if num_passed else 0
            self.cursor = self.cursor._replace(piece=self._first_piece + num_passed, token=self._at - start)
        else:
            self.cursor = self.cursor._replace(unit=self.cursor.unit + 1, piece=0, token=0)

    def _encode_some(self) -> None:
        while not self._pieces:
            documents, pieces = self._load_unit()[::-1], []
            while documents:  # one that is cut is no longer held: it may be large
                pieces += self._source.cut(documents.pop())
            self._pieces = pieces[self.cursor.piece :]
            if not self._pieces:  # all held out; or fewer than before, after an accepted change of files
                self.cursor = self.cursor._replace(unit=self.cursor.unit + 1, piece=0, token=0)
        num_characters = np.cumsum([len(piece.text) for piece in self._pieces])
        some = int(np.searchsorted(num_characters, CHARACTERS_AT_ONCE)) + 1
        self._tokens, self._ends = self._encoder.encode_pieces(self._pieces[:some])
        self._first_piece = self.cursor.piece
        self._at = min(self.cursor.token, int(self._ends[0]))  # fewer, after an accepted change of tokenizer
        del self._pieces[:some]

    def _load_unit(self) -> list[str]:
        """Returns the documents of the unit at the cursor; moves to the next group or epoch if there is none."""
        any_units = self.cursor.group > 0 or self.cursor.unit > 0
        while True:
            at = self.cursor
            any_units = any_units or self._source.num_units(at.epoch, at.group) > 0
            self._source.look_ahead(at.epoch, at.group)
            documents = self._source.documents(at.epoch, at.group, self._stream, at.unit)
            if documents is not None:
                return documents
            if at.group + 1 < self._source.num_groups:
                self.cursor = Cursor(at.epoch, at.group + 1)
            elif any_units:
                self._source.check_holdout()
                self.cursor = Cursor(at.epoch + 1)
            else:
                raise no_documents_error(self._source.name)
