"""What is kept beside a fetched file: of which version its bytes are, and the digest of the first whole one.

A server may say nothing of a file but its size. So that two versions are never taken for one, the mark in its answers
(ETag, Last-Modified) is kept with the part that has arrived, and the sha256 of the first whole file outlives the file:
one that was evicted and is fetched again has to be the same.
"""

from dataclasses import dataclass
from pathlib import Path

import orjson

from common.files import write_whole


@dataclass
class FetchRecord:
    """The record of one file, `.NAME.json` beside it."""

    version: str
    """That was asked for: DataFile.version."""
    etag: str | None = None
    """The mark of the bytes in the part; None: the place gave none."""
    sha256: str | None = None
    """Of the first whole file, in hexadecimal."""

    def write(self, path: Path) -> None:
        """Keeps the record of the file at `path`. Raises OSError."""
        with write_whole(record_path(path), durable=False) as output:
            output.write(orjson.dumps(self))


def record_path(path: Path) -> Path:
    """Returns where the record of the file at `path` lies."""
    return path.with_name(f".{path.name}.json")


def read_record(path: Path) -> FetchRecord | None:
    """Returns the record of the file at `path`; None where there is none that can be read."""
    try:
        return FetchRecord(**orjson.loads(record_path(path).read_bytes()))
    except (FileNotFoundError, orjson.JSONDecodeError, TypeError):
        return None


def open_record(path: Path, version: str, sha256: str | None) -> FetchRecord:
    """Returns what is known of the part of the file at `path`, and drops one that is, or may be, of another version."""
    record = read_record(path)
    if record is not None and record.version == version:
        return record
    if record is not None or sha256 is None:  # a hash tells in the end whether the beginning is the right one
        part_path(path).unlink(missing_ok=True)
    return FetchRecord(version)


def part_path(path: Path) -> Path:
    """Returns where the part of the file at `path` lies: its beginning, as far as it has arrived."""
    return path.with_name(f".{path.name}.part")
