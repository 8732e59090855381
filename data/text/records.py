"""The documents of one file, whatever its format: JSON lines in any encoding, a JSON array, plain text, Parquet, Arrow.

JSON lines are read by our own decoder (decode.py), which tells a truncated file from a whole one. Tables are left to
`datasets`, one file at a time, without its shuffling, mixing and retries. Only the field of the text (form.py) and `id`
are used: the other fields of the mix change their types from folder to folder, and within some.
"""

import glob
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from data.errors import DataError
from data.fetch.download import hash_file, is_present, stream_bytes
from data.fetch.files import DataFile
from data.text.decode import decode_lines, is_cut_off, read_chunks, read_lines
from data.text.form import PLAIN, NoTextError, TextForm, form_of
from data.text.frames import RecordCounts
from data.text.names import PLAIN_NAME, TABLE_BUILDERS

ROWS_AT_ONCE = 1000
UNREADABLE = object()
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
MAX_INDENT = 64  # bytes of white space before the bracket of a JSON array


class Record(NamedTuple):
    """A document and where it comes from."""

    text: str
    """Its text, not empty."""
    id: Any
    """Its `id` field; None without one."""
    line: int
    """Its line or row in the file, counted from 1."""


def read_records(file: DataFile, counts: RecordCounts) -> Iterator[Record]:
    """Yields the documents of a file on disk; records that cannot be read are skipped and counted in `counts`.

    Raises DataError for a truncated or damaged file, and for one that is not the listed one.
    """
    form = form_of(file)
    if is_table(file):
        return _documents(_read_table(file, form), form, counts)
    if is_plain(file):
        return _documents(_split_plain(file.path, read_chunks(file.path, file.sha256), form), PLAIN, counts)
    return _documents(_read_json(file), form, counts)


def read_first_records(file: DataFile, counts: RecordCounts) -> Iterator[Record]:
    """Yields the documents of a file of lines or of plain text as `read_records` does, without storing a remote file.

    Reads little more than what is taken from the iterator. Raises DataError; the hash of a remote file is not checked.
    """
    if is_present(file):
        return read_records(file, counts)
    form = form_of(file)
    if is_plain(file):
        return _documents(_split_plain(file.path, stream_bytes(file), form), PLAIN, counts)
    return _documents(_parse(decode_lines(file.path, stream_bytes(file))), form, counts)


def is_table(file: DataFile) -> bool:
    """Returns whether this is a Parquet or Arrow file, which can only be read from disk."""
    return file.path.suffix in TABLE_BUILDERS


def is_plain(file: DataFile) -> bool:
    """Returns whether this is a file of plain text."""
    return PLAIN_NAME.search(file.path.name) is not None


def _documents(rows: Iterator[tuple[int, Any]], form: TextForm, counts: RecordCounts) -> Iterator[Record]:
    for line, record in rows:
        if record is UNREADABLE:
            counts.bad_json += 1
            continue
        try:
            text = form.text_of(record)
        except NoTextError as error:
            counts.bad_text += 1
            counts.reason = counts.reason or f"record {line} {error}"
            continue
        if not text or text.isspace():
            counts.empty += 1
        else:
            yield Record(text, record.get("id"), line)


def _read_json(file: DataFile) -> Iterator[tuple[int, Any]]:
    is_readable, number, any_record = True, 0, False
    for number, value in _parse(read_lines(file.path, file.sha256)):
        is_readable = value is not UNREADABLE
        any_record = any_record or isinstance(value, dict)
        yield number, value
    if not is_readable and is_cut_off(file.path):
        if number > 1 and not any_record:
            raise DataError(
                f"{file.path} has several lines and a JSON object in none of them; write each record as one line, or "
                "all of them as one array"
            )
        raise DataError(f"{file.path} is truncated: it ends within a line; fetch or build the file again")


def _parse(lines: Iterator[bytes]) -> Iterator[tuple[int, Any]]:
    """Yields number, from 1, and JSON value of each line that is not blank, or of each item where all is one array.

    UNREADABLE stands for what is not JSON.
    """
    first = [next(lines, b"").removeprefix(BYTE_ORDER_MARK)]
    if first[0][:MAX_INDENT].lstrip().startswith(b"["):
        lines, items = _as_array(itertools.chain(first, lines))
        yield from enumerate(items, 1)
    else:
        lines = _put_back(first, lines)
    for number, line in enumerate(lines, 1):
        if line.isspace() or not line:
            continue
        value = _value_of(line)
        del line  # it may be large
        yield number, value


def _put_back(first: list[bytes], lines: Iterator[bytes]) -> Iterator[bytes]:
    yield first.pop()
    yield from lines


def _as_array(lines: Iterator[bytes]) -> tuple[Iterator[bytes], list[Any]]:
    """Returns no lines and the items, or the lines and no items where all of them are not one array of objects."""
    read = [*itertools.islice(lines, 2)]
    if len(read) > 1 and _value_of(read[0]) is not UNREADABLE:  # lines of arrays, none of which is a record
        return itertools.chain(read, lines), []
    read += lines
    items = _value_of(b"\n".join(read))
    if isinstance(items, list) and all(isinstance(item, dict) for item in items):
        return iter(()), items
    return iter(read), []


def _value_of(content: bytes) -> Any:
    try:
        return orjson.loads(content)
    except orjson.JSONDecodeError:
        return UNREADABLE


def _split_plain(path: Path, chunks: Iterator[bytes], form: TextForm) -> Iterator[tuple[int, Any]]:
    """Yields number, from 1, and text of each document of plain text, as a record; without the line ends around it."""
    separator = form.separator.encode() if form.separator else None
    for number, content in enumerate(decode_lines(path, chunks, separator), 1):
        try:
            text = content.removeprefix(BYTE_ORDER_MARK if number == 1 else b"").decode()
        except UnicodeDecodeError:
            yield number, UNREADABLE
        else:
            yield number, {"text": text.strip("\r\n")}


def _read_table(file: DataFile, form: TextForm) -> Iterator[tuple[int, Any]]:
    if file.sha256 is not None and hash_file(file.path) != file.sha256:
        raise DataError(f"{file.path} does not have its listed sha256; fetch or build the file again")
    number = 0
    for columns in _read_batches(file.path, form):
        for values in zip(*columns.values(), strict=True):
            number += 1
            yield number, dict(zip(columns, values, strict=True))


def _read_batches(path: Path, form: TextForm) -> Iterator[dict[str, list[Any]]]:
    """Yields columns of some rows at a time: that of the text, and those of `id` and `tools` where there are such."""
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
            column = _column_of(form, batch.column_names, path)
            wanted = [name for name in (column, "id", "tools") if name in batch.column_names]
            yield {name: batch[name].to_pylist() for name in dict.fromkeys(wanted)}
    except DataError:
        raise
    except Exception as error:  # pyarrow's and the library's own
        reason = str(error).strip().splitlines()[0]
        raise DataError(f"{path} is damaged ({reason}); fetch or build the file again") from error


def _column_of(form: TextForm, names: list[str], path: Path) -> str:
    """Returns the column that holds the text, perhaps in nested fields; raises DataError."""
    for name in (form.column, form.column.partition(".")[0]):
        if name in names:
            return name
    raise DataError(f"{path} has no column `{form.column}`, but {', '.join(names)}; set {form.key} to one of them")
