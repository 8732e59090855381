"""The tokenizer of a run: text in, token ids out; the text of a document never becomes a special token."""

import hashlib
import re
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tokenizers import Tokenizer

from data.errors import DataError

EOS_TOKEN = "<|endoftext|>"
TOKENIZER_NAME = "tokenizer.json"
PIECE_CHARACTERS = 1 << 18  # a tenth of a second to encode
LINE_END = re.compile(r"\n(?=\S)")  # no pre-tokenizer makes one token of the text on both sides of it


class Piece(NamedTuple):
    """A document, or a part of one that is very long."""

    text: str
    """Its text."""
    is_last: bool
    """Whether the document ends with it."""
    is_special: bool = False
    """Whether it is a special token by name, which a chat template wrote."""


def cut_document(text: str) -> list[Piece]:
    """Returns the document in pieces of bounded length, each up to an end of a line where there is one.

    Encoding tens of megabytes at once takes gigabytes and minutes, each time that a run resumes within them.
    """
    pieces, start = [], 0
    while len(text) - start > PIECE_CHARACTERS:
        stop = start + PIECE_CHARACTERS
        line_ends = [match.end() for match in LINE_END.finditer(text, stop - PIECE_CHARACTERS // 8, stop)]
        stop = line_ends[-1] if line_ends else stop
        pieces.append(Piece(text[start:stop], False))
        start = stop
    return [*pieces, Piece(text[start:], True)]


def largest_id(path: Path) -> int:
    """Returns the largest id of a tokenizer.json; raises DataError where there is none."""
    try:
        return max(Tokenizer.from_file(str(path)).get_vocab(with_added_tokens=True).values())
    except Exception as error:  # the library raises bare Exception
        raise DataError(f"{path} is not a tokenizer.json ({error}); give the path of one") from error


class DocumentEncoder:
    """A tokenizer that ends each document with EOS.

    A document may contain the text `<|endoftext|>` and does not end there: special tokens in a text are encoded as
    plain text. The library's own default is the opposite, and makes false document boundaries.
    """

    def __init__(self, path: Path, eos_token: str) -> None:
        """Reads the file; raises DataError when it is absent or no tokenizer, or has no special token `eos_token`."""
        if not path.is_file():
            raise DataError(f"data.tokenizer: there is no file {path}; give the path of a tokenizer.json")
        self._path = path
        self.sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        eos_token_id = self._tokenizer.token_to_id(eos_token)
        if eos_token_id is None or eos_token_id in self._encode([eos_token])[0]:
            raise DataError(f"data.eos_token: {eos_token!r} is not a special token of {path}; name one that is")
        self.eos_token_id: int = eos_token_id
        self.max_token_id = max(self._tokenizer.get_vocab(with_added_tokens=True).values())

    def encode(self, documents: Sequence[str], cut: Callable[[str], list[Piece]] = cut_document) -> np.ndarray:
        """Returns the documents' tokens with EOS after each, one after the other: uint32 `[num_tokens]`."""
        return np.concatenate([np.empty(0, np.uint32), *self.encode_each(documents, cut)])

    def encode_each(
        self, documents: Sequence[str], cut: Callable[[str], list[Piece]] = cut_document
    ) -> list[np.ndarray]:
        """Returns the tokens and EOS of each document: uint32 `[num_tokens]` each."""
        tokens: list[list[np.ndarray]] = [[]]
        pieces = [piece for document in documents for piece in cut(document)]
        for piece, ids in zip(pieces, self.encode_pieces(pieces), strict=True):
            tokens[-1].append(ids)
            if piece.is_last:
                tokens.append([])
        return [parts[0] if len(parts) == 1 else np.concatenate(parts) for parts in tokens[:-1]]

    def encode_pieces(self, pieces: Sequence[Piece]) -> list[np.ndarray]:
        """Returns the tokens of each piece, and EOS where a document ends: uint32 `[num_tokens]` each."""
        plain = iter(self._encode([piece.text for piece in pieces if not piece.is_special]))
        encoded = [[self._special_id(piece.text)] if piece.is_special else next(plain) for piece in pieces]
        end = [self.eos_token_id]
        return [
            np.array(ids + end if piece.is_last else ids, np.uint32) for ids, piece in zip(encoded, pieces, strict=True)
        ]

    def decode(self, tokens: np.ndarray) -> str:
        """Returns the text of these tokens, special ones by name."""
        return str(self._tokenizer.decode(tokens.tolist(), skip_special_tokens=False))

    def _special_id(self, token: str) -> int:
        found = self._tokenizer.token_to_id(token)
        assert found is not None, "a chat template is rendered with the tokens of this tokenizer"
        return int(found)

    def _encode(self, documents: Sequence[str]) -> list[list[int]]:
        encodings = self._tokenizer.encode_batch_fast(list(documents), add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        try:
            tokenizer = Tokenizer.from_file(str(self._path))
        except Exception as error:  # the library raises bare Exception
            raise DataError(f"{self._path} is not a tokenizer.json ({error}); give the path of one") from error
        tokenizer.encode_special_tokens = True
        tokenizer.no_truncation()  # many published files ask for truncation and padding, for other uses
        tokenizer.no_padding()
        return tokenizer

    def __getstate__(self) -> dict[str, Any]:
        # A pickled tokenizer forgets encode_special_tokens, so a worker process opens the file itself.
        return {name: value for name, value in self.__dict__.items() if name != "_tokenizer"}
