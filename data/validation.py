"""Validation rows: rows to evaluate on, with documents that are in no training row.

`data.validation` names one of three places:

    share       documents of the training files, held out of training by a hash of their text (text/holdout.py)
    sources     text files of their own
    file_list   token files of their own

The rows are a pure function of the configuration and the files, and do not depend on `data.seed`: every rank, every
worker count and every resumed run gets the same. Building them leaves the training stream as it is. What was read is
kept in the cache folder, so that of all ranks that share it one reads and the others wait for it.

Rows of text begin with a document. Documents follow each other, EOS after each; the one that reaches the end of the row
is cut there, and its rest is not used. So no document is in two rows, a long one is one row at most, and of copies only
the first is used. Rows of token files are the first rows of each file of a source, in turn.

How much is read: documents from the beginning of at most FILES_AT_ONCE files of a source at a time, in turn, until its
rows are full. With documents of n tokens that is about rows * (T / n + 1) / share documents per source, and never more
than MAX_DOCUMENTS: for 15 rows of 4,096 tokens, a share of 0.002 and documents of 500 tokens, 70,000 documents (140 MB,
some seconds). Remote files of JSON lines are read without storing them, up to the same document. Of token files, only
the rows themselves are read.
"""

import hashlib
import itertools
import logging
import math
import zipfile
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from common.files import write_whole
from data.config import DataConfig, DataKind
from data.errors import DataError
from data.fetch.download import is_present, stream_bytes
from data.fetch.files import DataFile
from data.fetch.locks import file_lock
from data.fetch.quota import CacheQuota
from data.fetch.roots import Root, locate_tokenizer, open_root
from data.filters import is_repetitive
from data.overlap import ListedFiles
from data.rows import document_boundaries
from data.text.backend import training_files
from data.text.form import find_text_files, form_of
from data.text.frames import RecordCounts
from data.text.holdout import is_held_out
from data.text.ingest import FrameCache
from data.text.records import is_table, read_first_records
from data.tokenizer import DocumentEncoder, Piece
from data.tokens.backend import choose_eos
from data.tokens.files import (
    MAX_TOKEN_ID,
    check_token_ids,
    list_token_files,
    name_sources,
    read_file_list,
)
from data.tokens.layout import TokenLayout, layout_of
from data.tokens.mixed import token_sources

logger = logging.getLogger(__name__)

FILES_AT_ONCE = 8
MAX_DOCUMENTS = 1_000_000  # read per source: a minute or two, where the share is far too small for the number of rows
FORMAT = "validation-1"  # of the kept file, and of the way rows are chosen


@dataclass(frozen=True)
class ValidationRows:
    """All N validation rows, source by source."""

    tokens: np.ndarray
    """uint32 `[N, T]`."""
    loss_mask: np.ndarray
    """bool `[N]`; False: the repetition filter masks the whole row out of the loss."""
    sources: np.ndarray
    """int16 `[N]`, index into `source_names`."""
    source_names: tuple[str, ...]
    """With `share`, those of the training stream; some may have no rows."""
    boundaries: list[np.ndarray]
    """Per row, cumulative document lengths: int32 `[0, cuts after each EOS ..., T]`."""


@dataclass(frozen=True)
class _SourceRows:
    """What was read of one source."""

    tokens: np.ndarray  # uint32 [rows, T]
    num_read: int = 0  # documents
    num_used: int = 0


@dataclass(frozen=True)
class _Plan:
    """Where the rows come from."""

    identity: list[Any]  # all that they depend on, JSON-like
    source_names: tuple[str, ...]
    eos_token_id: int
    remedy: str  # for too few rows
    read: Callable[[int], _SourceRows]  # the rows of the n-th source; raises DataError


def build_validation(config: DataConfig, *, sequence_length: int) -> ValidationRows | None:
    """Returns the validation rows of `sequence_length` tokens; None if `config.validation` names none.

    Of each source `rows // number of sources` rows, at least one, as far as its documents go; a source without any is a
    warning. Raises DataError for a faulty configuration, for validation files that are training files, and for no rows
    at all.
    """
    config.validate()
    chosen = config.validation
    if not (chosen.share or chosen.sources or chosen.file_list):
        return None
    root = open_root(config.root, config.cache_dir)
    make_plan = _plan_text if config.kind is DataKind.text else _plan_tokens
    plan = make_plan(config, root, sequence_length)
    tokens, sources, counts = _kept(root.cache, plan)
    for number, name in enumerate(plan.source_names):
        if not (sources == number).any():
            documents = f" ({counts[number][1]} held-out documents of {counts[number][0]} read)" if chosen.share else ""
            logger.warning(
                "data.validation: source %s has no row of %d tokens%s; %s",
                name,
                sequence_length,
                documents,
                plan.remedy,
            )
    if not len(tokens):
        raise DataError(f"data.validation: there is no row of {sequence_length} tokens; {plan.remedy}")
    return ValidationRows(
        tokens=tokens,
        loss_mask=np.array([not is_repetitive(row, config.repetition_filter) for row in tokens], bool),
        sources=sources,
        source_names=plan.source_names,
        boundaries=[document_boundaries(row, plan.eos_token_id) for row in tokens],
    )


def validation_documents(config: DataConfig) -> Iterator[tuple[str, Iterator[list[Piece]]]]:
    """Yields the name of each source with its validation documents: whole, in the order of the rows, without copies.

    Nothing if `config.validation` names no documents. Raises DataError as `build_validation` does.
    """
    config.validate()
    chosen = config.validation
    if not (chosen.share or chosen.sources):
        return
    root = open_root(config.root, config.cache_dir)
    cache = FrameCache(
        root.frames, config.frame_bytes, config.max_bad_share, CacheQuota(root.cache, config.max_cache_gib)
    )
    for name, files in _files_of_text(config, root).items():
        yield name, _whole(_read_in_turn(files, cache), chosen.share, form_of(files[0]).cut)


def _whole(texts: Iterator[str], share: float, cut: Callable[[str], list[Piece]]) -> Iterator[list[Piece]]:
    used: set[bytes] = set()
    for text in itertools.islice(texts, MAX_DOCUMENTS):
        digest = hashlib.sha256(text.encode()).digest()
        if digest not in used and (not share or is_held_out(text, share)):
            used.add(digest)
            yield cut(text)


def _files_of_text(config: DataConfig, root: Root) -> dict[str, list[DataFile]]:
    training = training_files(config, root)
    return training if config.validation.share else _own_files(config, root, training)


def _plan_text(config: DataConfig, root: Root, length: int) -> _Plan:
    chosen = config.validation
    encoder = DocumentEncoder(locate_tokenizer(str(config.tokenizer), root), config.eos_token)
    files = _files_of_text(config, root)
    remedy = "add files to data.validation.sources"
    if chosen.share:
        remedy = f"raise data.validation.share (now {chosen.share:g})"
    num_rows = max(1, chosen.rows // len(files))
    quota = CacheQuota(root.cache, config.max_cache_gib)
    cache = FrameCache(root.frames, config.frame_bytes, config.max_bad_share, quota)
    names = tuple(files)

    def read(number: int) -> _SourceRows:
        own = files[names[number]]
        return _pack(_read_in_turn(own, cache), chosen.share, encoder, num_rows, length, form_of(own[0]).cut)

    identity = [length, num_rows, chosen.share, encoder.sha256, encoder.eos_token_id, _identities(files)]
    return _Plan(identity, names, encoder.eos_token_id, remedy, read)


def _plan_tokens(config: DataConfig, root: Root, length: int) -> _Plan:
    chosen, key = config.validation, "data.validation.file_list"
    training = ListedFiles()
    if config.file_list is not None:
        names = read_file_list(Path(config.file_list).expanduser())
        training.add(root.named(names, "data.file_list"), "data.file_list")
    else:
        for name, trained in token_sources(config, root).items():
            training.add(trained, f"data.sources.{name}")
    listed = list_token_files(root, Path(str(chosen.file_list)).expanduser(), key, config.token_dtype)
    training.refuse(listed, key, ", and is trained on; list other files")
    tokenizer = locate_tokenizer(config.tokenizer, root) if config.tokenizer else None
    encoder = DocumentEncoder(tokenizer, config.eos_token) if tokenizer else None
    largest = encoder.max_token_id if encoder else MAX_TOKEN_ID
    files: dict[str, list[DataFile]] = {}
    for name, file in zip(name_sources([file.name for file in listed]), listed, strict=True):
        files.setdefault(name, []).append(file)
    validation = ListedFiles()
    for name, own in files.items():
        validation.refuse(own, f"{key}: source {name}", "; list it once")
        validation.add(own, f"source {name}")
    num_rows = max(1, chosen.rows // len(files))
    sources = tuple(files)

    def read(number: int) -> _SourceRows:
        own = files[sources[number]]
        layouts = [layout_of(file, config.token_dtype) for file in own]
        return _SourceRows(_first_rows(own, layouts, num_rows, length, largest))

    identity = [length, num_rows, _identities(files)]
    return _Plan(identity, sources, choose_eos(config, encoder), f"list more or longer files in {key}", read)


def _own_files(config: DataConfig, root: Root, training: dict[str, list[DataFile]]) -> dict[str, list[DataFile]]:
    """Returns the files of `validation.sources`; raises DataError if one is a training file, or in two sources."""
    trained, validation = ListedFiles(), ListedFiles()
    for name, files in training.items():
        trained.add(files, f"data.sources.{name}")
    found = {}
    for name, source in config.validation.sources.items():
        key = f"data.validation.sources.{name}.files"
        found[name] = find_text_files(config, source, key.removesuffix(".files"), root)
        trained.refuse(found[name], key, ", and is trained on; take it out of one")
        validation.refuse(found[name], key, "; take it out of one")
        validation.add(found[name], f"data.validation.sources.{name}")
    return found


def _identities(files: dict[str, list[DataFile]]) -> list[Any]:
    return [
        [name, [[file.name, file.num_bytes, file.version] for file in own], *form_of(own[0]).identity.items()]
        for name, own in files.items()
    ]


def _kept(folder: Path, plan: _Plan) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns tokens `[N, T]`, sources `[N]`, and (read, used) documents per source; from the cache, if kept."""
    digest = hashlib.sha256(repr([FORMAT, *plan.identity]).encode()).hexdigest()[:16]
    path = folder / f"validation-{digest}.npz"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path.with_name(f".{path.name}.lock").touch()
    except OSError:  # a folder that cannot be written to: each process reads the documents itself
        return _read_all(plan)
    with file_lock(path.with_name(f".{path.name}.lock")):
        with suppress(OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile), np.load(path) as kept:
            return kept["tokens"], kept["sources"], kept["counts"]
        tokens, sources, counts = _read_all(plan)
        with suppress(OSError), write_whole(path, durable=False) as output:
            np.savez_compressed(output, tokens=tokens, sources=sources, counts=counts)
        return tokens, sources, counts


def _read_all(plan: _Plan) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    parts = [plan.read(number) for number in range(len(plan.source_names))]
    tokens = np.concatenate([part.tokens for part in parts])
    sources = np.repeat(np.arange(len(parts), dtype=np.int16), [len(part.tokens) for part in parts])
    counts = np.array([(part.num_read, part.num_used) for part in parts], np.int64)
    logger.info("read %d validation rows from %d documents", len(tokens), counts[:, 1].sum())
    return tokens, sources, counts


def _read_in_turn(files: Sequence[DataFile], cache: FrameCache) -> Iterator[str]:
    """Yields documents of the files, at most FILES_AT_ONCE open: first files spread over the list, then the rest."""
    step = math.ceil(len(files) / FILES_AT_ONCE)
    order = [file for start in range(step) for file in files[start::step]]
    for start in range(0, len(order), FILES_AT_ONCE):
        readers = deque(_read_texts(file, cache) for file in order[start : start + FILES_AT_ONCE])
        while readers:
            reader = readers.popleft()
            text = next(reader, None)
            if text is not None:
                readers.append(reader)
                yield text


def _read_texts(file: DataFile, cache: FrameCache) -> Iterator[str]:
    if is_present(file) or not is_table(file):
        yield from (record.text for record in read_first_records(file, RecordCounts()))
        return
    for number in itertools.count():  # a remote table can only be read whole
        while True:
            (frames,) = cache.open([file])
            if number == len(frames.num_documents):
                return
            try:
                texts = frames.read_frame(number)
                break
            except FileNotFoundError:  # another process has evicted it: once more
                continue
        yield from texts


def _pack(
    texts: Iterator[str],
    share: float,
    encoder: DocumentEncoder,
    num_rows: int,
    length: int,
    cut: Callable[[str], list[Piece]],
) -> _SourceRows:
    """Returns rows of documents: of those that `share` holds out, or of all if it is 0."""
    rows = np.empty((num_rows, length), np.uint32)
    row = filled = num_read = 0
    used: set[bytes] = set()
    for text in itertools.islice(texts, MAX_DOCUMENTS):
        num_read += 1
        digest = hashlib.sha256(text.encode()).digest()
        if digest in used or (share and not is_held_out(text, share)):
            continue
        used.add(digest)
        tokens = _first_tokens(cut(text), encoder, length - filled)
        rows[row, filled : filled + len(tokens)] = tokens
        filled += len(tokens)
        if filled == length:
            row, filled = row + 1, 0
            if row == num_rows:
                break
    return _SourceRows(rows[:row], num_read, len(used))


def _first_tokens(pieces: Sequence[Piece], encoder: DocumentEncoder, length: int) -> np.ndarray:
    """Returns the tokens and EOS of a document of these pieces, at most `length` of them."""
    tokens = np.empty(0, np.uint32)
    for piece in pieces:
        tokens = np.concatenate([tokens, encoder.encode_pieces([piece])[0]])
        if len(tokens) >= length:
            break
    return tokens[:length]


def _first_rows(
    files: Sequence[DataFile], layouts: Sequence[TokenLayout], num_rows: int, length: int, largest: int
) -> np.ndarray:
    """Returns up to `num_rows` rows, uint32 `[R, length]`: row 0 of each file, then row 1 of each, and so on."""
    rows_of_file = [layout.num_tokens // length for layout in layouts]
    longest = max(rows_of_file)
    in_turn = (index for row in range(longest) for index in range(len(files)) if row < rows_of_file[index])
    taken = np.bincount(np.fromiter(itertools.islice(in_turn, num_rows), np.int64), minlength=len(files))
    parts = [np.empty((0, length), np.uint32)]
    for file, layout, count in zip(files, layouts, taken.tolist(), strict=True):
        if count:
            tokens = _read_tokens(file, layout, count * length)
            check_token_ids(tokens, file, largest)
            parts.append(tokens.reshape(count, length).astype(np.uint32))
    return np.concatenate(parts)


def _read_tokens(file: DataFile, layout: TokenLayout, count: int) -> np.ndarray:
    """Returns the first `count` tokens of a token file, without storing a remote one."""
    if is_present(file):
        return np.fromfile(file.path, layout.dtype, count, offset=layout.start)
    content, num_bytes = b"", count * layout.dtype.itemsize
    for chunk in stream_bytes(file):
        content += chunk
        if len(content) >= num_bytes:
            break
    return np.frombuffer(content[:num_bytes], layout.dtype)
