"""The tokenizer of a run: text in, token ids out, with document text never turning into special tokens."""

import hashlib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from data.errors import DataError


class DocumentEncoder:
    """Encodes documents and ends each with EOS.

    A document that spells out `<|endoftext|>` is about the token, it does not end there: special tokens are encoded as
    the text they are. The library's own default is the opposite, and makes false document boundaries.
    """

    def __init__(self, path: Path, eos_token: str) -> None:
        """Raises DataError when the file is absent or no tokenizer, or `eos_token` is not a special token of it."""
        if not path.is_file():
            raise DataError(f"data.tokenizer: there is no file {path}; give the path of a tokenizer.json")
        self._path = path
        self.sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        eos_token_id = self._tokenizer.token_to_id(eos_token)
        if eos_token_id is None or eos_token_id in self._encode([eos_token])[0]:
            raise DataError(f"data.eos_token: {eos_token!r} is not a special token of {path}; name one that is")
        self.eos_token_id: int = eos_token_id
        self.max_token_id = max(self._tokenizer.get_vocab(with_added_tokens=True).values())

    def encode(self, documents: Sequence[str]) -> np.ndarray:
        """The documents' tokens with EOS after each, one after the other: uint32 `[num_tokens]`."""
        tokens: list[int] = []
        for ids in self._encode(documents):
            tokens.extend(ids)
            tokens.append(self.eos_token_id)
        return np.array(tokens, np.uint32)

    def encode_each(self, documents: Sequence[str]) -> list[np.ndarray]:
        """The tokens and EOS of each document: uint32 `[num_tokens]` each."""
        return [np.array([*ids, self.eos_token_id], np.uint32) for ids in self._encode(documents)]

    def decode(self, tokens: np.ndarray) -> str:
        """The text of these tokens, special ones spelled out."""
        return str(self._tokenizer.decode(tokens.tolist(), skip_special_tokens=False))

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
        return tokenizer

    def __getstate__(self) -> dict[str, Any]:
        # A pickled tokenizer forgets encode_special_tokens, so a worker process opens the file itself.
        return {name: value for name, value in self.__dict__.items() if name != "_tokenizer"}
