"""The documents of one file, whatever its format: JSON lines in any encoding, Parquet, Arrow.

JSON lines are read by our own decoder (decode.py), which tells a truncated file from a whole one. Tables are left to
`datasets`, one file at a time, without its shuffling, mixing and retries. Only `text` (and `id`) is used: the other
fields of the mix change their types from folder to folder, and within some.
"""

import glob
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from data.errors import DataError
from data.fetch.download import hash_file, is_present, stream_bytes
from data.fetch.files import DataFile
from data.text.decode import decode_lines, is_cut_off, read_lines
from data.text.frames import RecordCounts

TABLE_BUILDERS = {".parquet": "parquet", ".arrow": "arrow"}
TEXT_NAME = re.compile(r"\.(jsonl?(\.(zst|gz))?|parquet|arrow)$")
OTHER_JSON = {"manifest.json", "tokenizer.json"}
ROWS_AT_ONCE = 1000
UNREADABLE = object()
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class Record(NamedTuple):
    """A document and where it comes from."""

    text: str
    """Its text, not empty."""
    id: Any
    """Its `id` field; None without one."""
    line: int
    """Its line or row in the file, counted from 1."""


def find_text_names(folder: Path) -> list[str]:
    """Returns the names, relative to `folder`, of the text files at any depth below it, in order; no hidden ones."""
    paths = (path.relative_to(folder) for path in folder.rglob("*") if TEXT_NAME.search(path.name) and path.is_file())
    return sorted(
        path.as_posix()
        for path in paths
        if path.name not in OTHER_JSON and not any(part.startswith(".") for part in path.parts)
    )


def read_records(file: DataFile, counts: RecordCounts) -> Iterator[Record]:
    """Yields the documents of a file on disk; records that cannot be read are skipped and counted in `counts`.

    Raises DataError for a truncated or damaged file, and for one that is not the listed one.
    """
    return _documents(_read_table(file) if is_table(file) else _read_json(file), counts)


def read_first_records(file: DataFile, counts: RecordCounts) -> Iterator[Record]:
    """Yields the documents of a file of JSON lines as `read_records` does, without storing a remote file.

    Reads little more than what is taken from the iterator. Raises DataError; the hash of a remote file is not checked.
    """
    if is_present(file):
        return read_records(file, counts)
    return _documents(_parse(decode_lines(file.path, stream_bytes(file))), counts)


def is_table(file: DataFile) -> bool:
    """Returns whether this is a Parquet or Arrow file, which can only be read from disk."""
    return file.path.suffix in TABLE_BUILDERS


def _documents(rows: Iterator[tuple[int, Any]], counts: RecordCounts) -> Iterator[Record]:
    for line, record in rows:
        if record is UNREADABLE:
            counts.bad_json += 1
            continue
        text = record.get("text") if isinstance(record, dict) else None
        if not isinstance(text, str):
            counts.bad_text += 1
        elif not text or text.isspace():
            counts.empty += 1
        else:
            yield Record(text, record.get("id"), line)


def _read_json(file: DataFile) -> Iterator[tuple[int, Any]]:
    last: Any = None
    for number, last in _parse(read_lines(file.path, file.sha256)):
        yield number, last
    if last is UNREADABLE and is_cut_off(file.path):
        raise DataError(f"{file.path} is truncated: it ends within a line; fetch or build the file again")


def _parse(lines: Iterator[bytes]) -> Iterator[tuple[int, Any]]:
    """Yields the number, from 1, and the JSON value of each line that is not blank; UNREADABLE for what is not JSON."""
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            yield number, orjson.loads(line.removeprefix(BYTE_ORDER_MARK) if number == 1 else line)
        except orjson.JSONDecodeError:
            yield number, UNREADABLE


def _read_table(file: DataFile) -> Iterator[tuple[int, Any]]:
    if file.sha256 is not None and hash_file(file.path) != file.sha256:
        raise DataError(f"{file.path} does not have its listed sha256; fetch or build the file again")
    number = 0
    for columns in _read_batches(file.path):
        ids = columns.get("id", [None] * len(columns["text"]))
        for text, identity in zip(columns["text"], ids, strict=True):
            number += 1
            yield number, {"text": text, "id": identity}


def _read_batches(path: Path) -> Iterator[dict[str, list[Any]]]:
    if "::" in str(path):
        raise DataError(f"{path}: `datasets` takes '::' in a name for a chain of addresses; rename the file")
    from datasets import load_dataset  # two seconds, that a mix of JSON lines need not wait for
    from pyarrow.parquet import read_metadata

    try:
        if path.suffix == ".parquet" and not read_metadata(path).num_rows:
            return
        name = glob.escape(str(path))  # it takes names for patterns
        table = load_dataset(TABLE_BUILDERS[path.suffix], data_files={"train": [name]}, split="train", streaming=True)
        for batch in table.with_format("arrow").iter(ROWS_AT_ONCE):
            if "text" not in batch.column_names:
                raise DataError(f"{path} has no column `text` among {batch.column_names}; leave it out or rename one")
            yield {name: batch[name].to_pylist() for name in ("text", "id") if name in batch.column_names}
    except DataError:
        raise
    except Exception as error:  # pyarrow's and the library's own
        reason = str(error).strip().splitlines()[0]
        raise DataError(f"{path} is damaged ({reason}); fetch or build the file again") from error
