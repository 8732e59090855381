"""The tokenizer of a run: text in, token ids out; the text of a document never becomes a special token.

`tokenizers` defines the ids. A faster encoder (fast_encoder.py) takes its place where both give the same.
"""

import hashlib
import itertools
import logging
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tokenizers
from tokenizers import Tokenizer

from data.config import EncoderKind
from data.errors import DataError
from data.fast_encoder import FastEncoder, Known, fast_name, hostile_corpus, key_of, load_fast, read_known

logger = logging.getLogger(__name__)

EOS_TOKEN = "<|endoftext|>"
TOKENIZER_NAME = "tokenizer.json"
PIECE_CHARACTERS = 1 << 18  # a tenth of a second to encode
CHARACTERS_AT_ONCE = 1 << 22  # that are encoded; `tokenizers` takes some 20 bytes for each
TOKENIZERS_FIRST = 1 << 20  # characters: half a second of `tokenizers`, which loads in a quarter of fastokens' time
CHECKED_CHARACTERS = 1 << 14  # of a source's first documents: 10 ms of `tokenizers`
SHOWN_CHARACTERS = 40  # of a text that the encoders disagree on
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
    if len(text) <= PIECE_CHARACTERS:
        return [Piece(text, True)]
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

    def __init__(
        self,
        path: Path,
        eos_token: str,
        kind: EncoderKind = EncoderKind.tokenizers,
        kept_in: Path | None = None,
        *,
        compares_later: bool = False,
    ) -> None:
        """Reads the file; raises DataError when it is absent or no tokenizer, or has no special token `eos_token`.

        The fast encoder, if `kind` allows it, is held against `tokenizers` on a hostile corpus. What comes out is kept
        in the folder `kept_in`. With `compares_later` this and other comparisons are made when the fast encoder is
        first needed, without a word (`problem` has what they find), unless `kind` asks for the fast one by name.
        """
        if not path.is_file():
            raise DataError(f"data.tokenizer: there is no file {path}; give the path of a tokenizer.json")
        self._path = path.absolute()
        self.sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        self._kind = kind
        self._kept_in = kept_in
        self._key = key_of(self.sha256, eos_token)
        self._left = TOKENIZERS_FIRST  # characters that `tokenizers` encodes before the fast encoder is loaded
        self._compares_later = compares_later and kind is EncoderKind.auto and fast_name() is not None
        self._not_compared: dict[str, Callable[[], Iterable[str]]] = {}  # what the fast encoder waits for
        self.problem = ""
        """Why `tokenizers` encodes though the fast encoder may; empty if it does not."""
        self._known = (read_known(kept_in, self._key) if kept_in else None) or self._look_up(eos_token)
        self.eos_token_id: int = self._known.eos_token_id
        self.max_token_id: int = self._known.max_token_id
        self.hold_against("the hostile corpus", self._hostile_corpus)

    @property
    def encoder(self) -> str:
        """The library that encodes, with its version, and why it is not the fast one."""
        slow = f"tokenizers {tokenizers.__version__}"
        if self._not_compared:
            return f"{slow} until {fast_name()} has been compared with it"
        return str(fast_name()) if self._is_fast else f"{slow}{self.problem and f': {self.problem}'}"

    def load(self) -> None:
        """Loads `tokenizers`, which encodes first, so that processes forked from this one share its tables."""
        _encode_slowly(self._tokenizer, [""])

    def hold_against(self, name: str, texts: Callable[[], Iterable[str]]) -> None:
        """Compares the encoders on these texts, unless that has been done; after one difference `tokenizers` encodes.

        With `compares_later` the texts are read and compared later, perhaps in a worker: the callable is picklable.
        Raises DataError if they differ and the fast one was asked for by name.
        """
        if self._is_fast and name not in self._known.agreed:
            self._not_compared[name] = texts
        if not self._compares_later:
            self.compare()

    def compare(self) -> None:
        """Makes the comparisons that were put off, but for those that another process has made meanwhile."""
        if self._not_compared and self._kept_in and (known := read_known(self._kept_in, self._key)):
            self._known = known
        for name, texts in list(self._not_compared.items()):
            if name not in self._known.agreed:
                self._compare_on(name, list(texts()))
            del self._not_compared[name]
            if self.problem:
                self._not_compared.clear()
                return

    def _compare_on(self, name: str, texts: Sequence[str]) -> None:
        if not texts:
            return
        self.problem = self._find_problem(name, texts)
        if self.problem and self._kind is EncoderKind.fastokens:
            raise DataError(f"data.encoder=fastokens: {self.problem}; set data.encoder to auto or tokenizers")
        if self.problem:
            if not self._compares_later:
                tell_encoder(self.encoder, self.problem)
            return
        self._known.agreed.append(name)
        if self._kept_in:
            self._known.keep(self._kept_in, self._key)

    def _hostile_corpus(self) -> list[str]:
        return hostile_corpus(self._tokenizer)

    def encode(self, documents: Sequence[str], cut: Callable[[str], list[Piece]] = cut_document) -> np.ndarray:
        """Returns the documents' tokens with EOS after each, one after the other: uint32 `[num_tokens]`."""
        return self.encode_documents(documents, cut)[0]

    def encode_documents(
        self, documents: Sequence[str], cut: Callable[[str], list[Piece]] = cut_document
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns what `encode` does, and where each document ends in it: int64 `[num_documents]`."""
        tokens, ends, num_tokens = [np.empty(0, np.uint32)], [np.empty(0, np.int64)], 0
        for pieces in _some_at_a_time(piece for document in documents for piece in cut(document)):
            own, own_ends = self.encode_pieces(pieces)
            tokens.append(own)
            ends.append(num_tokens + own_ends[np.array([piece.is_last for piece in pieces], bool)])
            num_tokens += len(own)
        return np.concatenate(tokens), np.concatenate(ends)

    def encode_pieces(self, pieces: Sequence[Piece]) -> tuple[np.ndarray, np.ndarray]:
        """Returns the tokens of all pieces, and where each ends.

        Tokens are uint32 `[num_tokens]`, one piece after the other, with EOS where a document ends; ends are int64
        `[num_pieces]`, and count EOS.
        """
        ids, ends = self._encode([piece.text for piece in pieces if not piece.is_special])
        if len(ends) < len(pieces):
            ids, ends = self._with_special(pieces, ids, ends)
        is_last = np.array([piece.is_last for piece in pieces], bool)
        return np.insert(ids, ends[is_last], self.eos_token_id), ends + np.cumsum(is_last)

    def decode(self, tokens: np.ndarray, *, skip_special_tokens: bool = False) -> str:
        """Returns the text of these tokens, special ones by name or left out."""
        return str(self._tokenizer.decode(tokens.tolist(), skip_special_tokens=skip_special_tokens))

    def _look_up(self, eos_token: str) -> Known:
        added = self._tokenizer.get_added_tokens_decoder()
        special_ids = {token.content: number for number, token in added.items() if token.special}
        eos_token_id = self._tokenizer.token_to_id(eos_token)
        if eos_token_id is None or eos_token_id in _encode_slowly(self._tokenizer, [eos_token])[0]:
            raise DataError(f"data.eos_token: {eos_token!r} is not a special token of {self._path}; name one that is")
        return Known(eos_token_id, max(self._tokenizer.get_vocab(with_added_tokens=True).values()), special_ids)

    def _with_special(
        self, pieces: Sequence[Piece], ids: np.ndarray, ends: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns ids and ends of all pieces, from those of the pieces that are text."""
        is_special = np.array([piece.is_special for piece in pieces], bool)
        lengths = np.ones(len(pieces), np.int64)
        lengths[~is_special] = np.diff(ends, prepend=0)
        from_special = np.repeat(is_special, lengths)
        tokens = np.empty(len(from_special), np.uint32)
        tokens[~from_special] = ids
        # A chat template is rendered with the tokens of this tokenizer: none is unknown.
        tokens[from_special] = [self._known.special_ids[piece.text] for piece in pieces if piece.is_special]
        return tokens, np.cumsum(lengths)

    def _find_problem(self, name: str, texts: Sequence[str]) -> str:
        """Returns why the fast encoder cannot be used; empty if it gives the same ids for all of these texts."""
        fast = fast_name()
        if fast is None:
            return "fastokens is not installed"
        try:
            different = _first_difference(self._fast, self._tokenizer, texts)
        except DataError as error:
            return f"{fast} {error}"
        return "" if different is None else f"{fast} gives other ids for {different!r} of {name}"

    def _encode(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        if self._is_fast:
            self._left -= sum(map(len, texts))
            if self._left <= 0:
                self.compare()
        if self._is_fast and self._left <= 0:
            with suppress(DataError):  # then these texts are left to the library that defines their ids
                return self._fast.encode(texts)
        return _encode_slowly(self._tokenizer, texts)

    @property
    def _is_fast(self) -> bool:
        return self._kind is not EncoderKind.tokenizers and not self.problem

    @property
    def _tokenizer(self) -> Tokenizer:
        return load_tokenizer(self._path, self.sha256)

    @property
    def _fast(self) -> FastEncoder:
        self._left = 0  # nothing is gained by waiting once it is loaded
        return load_fast(self._path, self.sha256)


def tell_encoder(encoder: str, problem: str = "") -> None:
    """Logs what encodes text; as a warning if there is a reason why it is not the fast encoder."""
    if problem:
        logger.warning("data.encoder: `tokenizers` encodes, some forty times slower: %s", problem)
    else:
        logger.info("data.encoder: %s", encoder)


def _some_at_a_time(pieces: Iterable[Piece]) -> Iterator[list[Piece]]:
    some, num_characters = [], 0
    for piece in pieces:
        some.append(piece)
        num_characters += len(piece.text)
        if num_characters >= CHARACTERS_AT_ONCE:
            yield some
            some, num_characters = [], 0
    if some:
        yield some


def first_characters(texts: Iterable[str]) -> list[str]:
    """Returns the first texts, CHECKED_CHARACTERS in all: what of a source the encoders are compared on."""
    taken, left = [], CHECKED_CHARACTERS
    for text in texts:
        taken.append(text[:left])
        left -= len(taken[-1])
        if not left:
            break
    return taken


@lru_cache(maxsize=2)
def load_tokenizer(path: Path, sha256: str) -> Tokenizer:
    """Returns the tokenizer of a file with this content, loaded once in a process; raises DataError."""
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception
        raise DataError(f"{path} is not a tokenizer.json ({error}); give the path of one") from error
    if dropout := getattr(tokenizer.model, "dropout", None):
        raise DataError(
            f"{path}: with a BPE dropout of {dropout:g} a text has no fixed ids; set it to null in the file"
        )
    tokenizer.encode_special_tokens = True
    tokenizer.no_truncation()  # many published files ask for truncation and padding, for other uses
    tokenizer.no_padding()
    return tokenizer


def _encode_slowly(tokenizer: Tokenizer, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Returns what FastEncoder.encode does."""
    ids = [encoding.ids for encoding in tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)]
    ends = np.cumsum([len(own) for own in ids], dtype=np.int64)
    return np.fromiter(itertools.chain.from_iterable(ids), np.uint32, ends[-1] if len(ends) else 0), ends


def _first_difference(fast: FastEncoder, tokenizer: Tokenizer, texts: Sequence[str]) -> str | None:
    """Returns the beginning of the first text that the two encode differently; None if there is none."""
    (ours, our_ends), (theirs, their_ends) = fast.encode(texts), _encode_slowly(tokenizer, texts)
    if np.array_equal(ours, theirs) and np.array_equal(our_ends, their_ends):
        return None
    for text, own, other in zip(texts, np.split(ours, our_ends), np.split(theirs, their_ends), strict=False):
        if not np.array_equal(own, other):
            return text[:SHOWN_CHARACTERS]
    raise AssertionError("ids of all texts together differ where those of each do not")
