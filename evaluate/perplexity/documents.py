"""Long documents to read: what a run holds out, files of text, or what every Python installation has.

At each length, documents with at least so many tokens are read, up to a number of them; those that reach longer lengths
come first, so that lengths have as many documents in common as there are. The first tokens of a document are read, and
no EOS comes before them, as in the rows of a run's validation.
"""

import itertools
import sysconfig
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from pydoc_data.topics import topics

import numpy as np
import orjson
import xxhash
from tokenizers import Tokenizer

from data.config import DataConfig
from data.fetch.files import describe_file
from data.text.decode import read_lines
from data.text.form import TextFile, TextForm, with_form
from data.text.frames import RecordCounts
from data.text.names import DATA_SUFFIX, find_text_names
from data.text.records import is_plain, read_records
from data.tokenizer import Piece, cut_document
from data.tools.sample_texts import SKIPPED_FOLDERS
from data.validation import validation_documents
from evaluate.errors import EvaluateError
from evaluate.subject import encode

Pieces = list[Piece]


@dataclass(frozen=True)
class Texts:
    """Where documents come from, and what reads them."""

    about: str
    """In words."""
    read: Callable[[], Iterator[tuple[str, Pieces]]]
    """Yields the name of a source and the pieces of a document."""


@dataclass(frozen=True)
class Document:
    """The first tokens of a document."""

    source: str
    """The name of its source."""
    tokens: np.ndarray
    """int64 `[n]`: no more than the longest length that is asked for."""

    def digest(self, length: int) -> str:
        """Returns what tells its first `length` tokens from others."""
        return xxhash.xxh3_64_hexdigest(self.tokens[:length].astype("<u4").tobytes())


@dataclass(frozen=True)
class Chosen:
    """The documents to read."""

    by_length: dict[int, list[Document]]
    """At each length, all of at least so many tokens."""
    num_read: int
    """How many were looked at."""

    def about(self) -> str:
        """Returns how many there are for each length, in words."""
        counts = ", ".join(f"{len(documents)} of {length:,}" for length, documents in self.by_length.items())
        return f"documents of at least so many tokens: {counts} ({self.num_read:,} were looked at)"


def held_out_texts(config: DataConfig, name: str) -> Texts:
    """Returns the documents that a run of text holds out of its training, its sources in turn."""

    def read() -> Iterator[tuple[str, Pieces]]:
        waiting = deque(validation_documents(config))
        while waiting:
            source, documents = waiting.popleft()
            pieces = next(documents, None)
            if pieces is not None:
                waiting.append((source, documents))
                yield source, pieces

    return Texts(f"what {name} holds out of its training", read)


def texts_of(path: Path, text_key: str) -> Texts:
    """Returns the documents of a file or a folder. Raises EvaluateError if there is none."""
    folder, names = (path, find_text_names(path)) if path.is_dir() else (path.parent, [path.name])
    if not path.exists():
        raise EvaluateError(f"documents={path} is absent: give a text file, JSON lines, a table, or a folder of such")
    if not names:
        raise EvaluateError(f"documents={path} holds no text files (.jsonl, .parquet, .txt, or .zst and .gz of them)")

    def read() -> Iterator[tuple[str, Pieces]]:
        for name in names:
            file = with_form(describe_file(folder, name, None), TextForm(text_key, key="text_key"))
            for text in _texts_in(file):
                yield name, cut_document(text)

    return Texts(str(path), read)


def python_texts() -> Texts:
    """Returns Python's own texts: the language reference by section, and the standard library's modules as they are."""

    def read() -> Iterator[tuple[str, Pieces]]:
        sections = sorted(set(topics.values()), key=len, reverse=True)
        for number, text in enumerate(sections):
            if not any(text in longer for longer in sections[:number]):  # a section of another one
                yield "language reference", cut_document(text)
        root = Path(sysconfig.get_path("stdlib"))
        for path in sorted(root.rglob("*.py")):
            parts = path.relative_to(root).parts
            if SKIPPED_FOLDERS.isdisjoint(parts) and parts[0] != "pydoc_data":  # which is the language reference
                yield "standard library", cut_document(path.read_text(encoding="utf-8", errors="replace"))

    return Texts("Python's language reference and standard library, which models may have been trained on", read)


def choose(
    texts: Texts,
    tokenizer: Tokenizer,
    eos_token_id: int,
    lengths: Sequence[int],
    number: int,
    *,
    pack: bool,
    same: bool,
) -> Chosen:
    """Returns up to `number` documents for each length. Raises EvaluateError if there is none for any length."""
    encode_piece, ordered = _encoder(tokenizer), sorted(lengths)
    shortest, longest = ordered[-1 if same else 0], ordered[-1]
    num_read, num_tokens, reaching = 0, 0, {length: list[Document]() for length in ordered}

    def tokenised() -> Iterator[Document]:
        nonlocal num_read, num_tokens
        for source, pieces in texts.read():
            num_read += 1
            num_bytes = sum(len(piece.text.encode()) for piece in pieces)
            if pack or num_bytes >= shortest:  # no token is shorter than a byte
                tokens = _first_tokens(pieces, encode_piece, longest)
                num_tokens += len(tokens)
                yield Document(source, tokens)

    documents: Iterable[Document] = tokenised()
    used: set[str] = set()
    for document in _packed(documents, eos_token_id, longest) if pack else documents:
        reached = [length for length in ordered if length <= len(document.tokens)]
        if reached and len(reaching[reached[-1]]) < number and document.digest(shortest) not in used:  # else a copy
            used.add(document.digest(shortest))
            reaching[reached[-1]].append(document)
        if len(reaching[longest]) == number:
            break
    by_length = {}
    for length in ordered:
        longer = [reaching[each] for each in reversed(ordered) if each >= (longest if same else length)]
        by_length[length] = list(itertools.islice(itertools.chain(*longer), number))
    chosen = Chosen(by_length, num_read)
    if not num_read:
        raise EvaluateError(f"there is no document in {texts.about}: it is empty; give others by documents=PATH")
    if not any(by_length.values()):
        if pack:
            raise EvaluateError(
                f"pack=true did not fill {shortest:,} tokens: the {num_read:,} documents of {texts.about} have "
                f"{num_tokens:,} in all, those of one source together; give shorter lengths, or documents=PATH"
            )
        least = f"no document of {shortest:,} tokens or more among the {num_read:,} of {texts.about}"
        raise EvaluateError(f"{least}: give shorter lengths, pack=true, or documents=PATH")
    return chosen


def _texts_in(file: TextFile) -> Iterator[str]:
    """Yields the documents of a file. Raises EvaluateError where one cannot be read, DataError for a damaged file."""
    counts = RecordCounts()
    if DATA_SUFFIX.search(file.name):
        for record in read_records(file, counts):
            if counts.num_bad:
                break
            yield record.text
    elif file.num_bytes:
        try:
            yield file.path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            counts.bad_json += 1
    if counts.bad_json:
        raise EvaluateError(f"{file.path}, {_first_bad_line(file)}: repair the file, or leave it out")
    if counts.bad_text:
        raise EvaluateError(f"{file.path}: {counts.reason}; text_key=NAME names the field")


def _first_bad_line(file: TextFile) -> str:
    """Returns the first line that cannot be read, and why, in words."""
    has_json = DATA_SUFFIX.search(file.name) is not None and not is_plain(file)
    for number, line in enumerate(read_lines(file.path), 1):
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8")
            if has_json and text.strip():
                orjson.loads(text)
        except UnicodeDecodeError as error:
            return f"line {number} is not UTF-8 ({error.reason} at its byte {error.start})"
        except orjson.JSONDecodeError as error:
            return f"line {number} is not JSON ({str(error).partition(':')[0]})"
    return "it is not JSON"  # lines that are JSON by themselves, and one array together


def _encoder(tokenizer: Tokenizer) -> Callable[[Piece], list[int]]:
    """Returns what encodes a piece as training does: special tokens that a text spells out are plain text."""
    own = Tokenizer.from_str(tokenizer.to_str())
    own.encode_special_tokens = True

    def encode_piece(piece: Piece) -> list[int]:
        if piece.is_special:
            special = own.token_to_id(piece.text)
            assert special is not None
            return [special]
        return encode(own, piece.text)

    return encode_piece


def _first_tokens(pieces: Pieces, encode: Callable[[Piece], list[int]], length: int) -> np.ndarray:
    tokens: list[int] = []
    for piece in pieces:
        tokens += encode(piece)
        if len(tokens) >= length:
            break
    return np.array(tokens[:length], dtype=np.int64)


def _packed(documents: Iterable[Document], eos_token_id: int, length: int) -> Iterator[Document]:
    """Yields documents of `length` tokens: those that are, and those of one source together until they are."""
    waiting: dict[str, list[np.ndarray]] = {}
    for document in documents:
        if len(document.tokens) == length:
            yield document
            continue
        parts = waiting.setdefault(document.source, [])
        parts += [document.tokens, np.array([eos_token_id])]
        if sum(map(len, parts)) >= length:
            yield Document(document.source, np.concatenate(waiting.pop(document.source))[:length])
    for source, parts in waiting.items():
        yield Document(source, np.concatenate(parts))
