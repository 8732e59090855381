"""JSON-lines files: rows are appended whole; on a full disk they wait in memory and are written later."""

import hashlib
import json
import logging
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from common.files import flush_to_disk, write_whole

logger = logging.getLogger(__name__)


class JsonLines:
    """Appends rows to a file, each on disk (the page cache) when `append` returns.

    When the disk is full or gone, rows wait in memory and are written with a later one; the run goes on.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._waiting: list[bytes] = []
        self._seen: tuple[int, bytes] = (0, _digest(b""))  # size and digest of the file when it was last seen whole
        self._recent: list[bytes] = []  # lines of this process that no checkpoint is known to hold, without their ends
        self._num_seen = 0  # of these, the first ones, which the file had then

    def append(self, row: dict[str, Any]) -> None:
        """Writes this row, and those that still wait. Warns once if it cannot; never raises OSError."""
        had_to_wait = bool(self._waiting)
        line = json.dumps(row).encode()
        self._recent.append(line)
        self._waiting.append(line + b"\n")
        try:
            self._write(b"".join(self._waiting))
            self._waiting.clear()
        except OSError as error:
            if not had_to_wait:
                logger.warning("cannot write %s (%s): its lines wait in memory", self._path, error.strerror)

    def append_now(self, row: dict[str, Any]) -> None:
        """Writes this row. Raises OSError, which names the file, if it cannot: nothing waits."""
        try:
            self._write(json.dumps(row).encode() + b"\n")
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self._path)) from error

    def durable_content(self, *, is_whole: bool = True) -> bytes | None:
        """Flushes the file to the disk; returns its lines, those that still wait included.

        Unless `is_whole`, it has lost lines that `lost_lines` is to return again. Returns None, with a warning, if it
        cannot.
        """
        try:
            content = read_bytes(self._path)
            if content:
                flush_to_disk(self._path)
                flush_to_disk(self._path.parent)
        except OSError as error:
            logger.warning("cannot flush %s to the disk (%s)", self._path, error.strerror)
            return None
        if is_whole:
            self._see(content)
        else:
            self._num_seen = 0
        return content + b"".join(self._waiting)

    def forget_saved(self) -> None:
        """Forgets the lines that `durable_content` found in the file: a checkpoint holds them now."""
        del self._recent[: self._num_seen]
        self._num_seen = 0

    def remember(self) -> None:
        """Takes the file, as it is, for whole: what it loses later, `lost_lines` notices. Raises OSError."""
        self._see(read_bytes(self._path))
        self.forget_saved()

    def lost_lines(self) -> list[bytes] | None:
        """Returns the lines of this process that no checkpoint is known to hold, if the file has lost any line.

        None if it has not. Raises OSError.
        """
        content, (size, digest) = read_bytes(self._path), self._seen
        written = self._recent[: self._num_written]
        is_whole = _digest(content[:size]) == digest
        if is_whole and set(written[self._num_seen :]) <= set(split_lines(content[size:])):
            return None
        return written

    @property
    def _num_written(self) -> int:
        return len(self._recent) - len(self._waiting)

    def _see(self, content: bytes) -> None:
        self._seen = (len(content), _digest(content))
        self._num_seen = self._num_written

    def _write(self, lines: bytes) -> None:
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            end = os.fstat(descriptor).st_size
            if end and os.pread(descriptor, 1, end - 1) != b"\n":
                lines = b"\n" + lines  # a kill has truncated the last line: keep it from spoiling this one
            try:
                while lines:
                    lines = lines[os.write(descriptor, lines) :]
            except OSError:
                os.ftruncate(descriptor, end)
                raise
        finally:
            os.close(descriptor)


def _digest(content: bytes) -> bytes:
    return hashlib.blake2b(content).digest()


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """Returns the objects of a JSON-lines file; lines that are truncated, damaged or no objects are left out.

    Empty if there is no file.
    """
    rows = (json_object(line) for line in split_lines(read_bytes(path)))
    return [row for row in rows if row is not None]


def json_object(line: bytes) -> dict[str, Any] | None:
    """Returns the object that a line holds; None if it holds none."""
    try:
        row = json.loads(line.decode(errors="replace"))
    except (ValueError, RecursionError):  # the latter: thousands of brackets
        return None
    return row if isinstance(row, dict) else None


def split_lines(content: bytes) -> list[bytes]:
    """Returns the lines of a file without their ends, those of an editor of Windows too, and without empty ones."""
    return [line for line in content.replace(b"\r\n", b"\n").split(b"\n") if line]


def replace_lines(path: Path, lines: Iterable[bytes]) -> None:
    """Makes these the lines of a file, on the disk; bytes that stay are not written again if only the end changes."""
    content, new = read_bytes(path), b"".join(line + b"\n" for line in lines)
    if new == content:
        return
    if content.startswith(new):
        os.truncate(path, len(new))
        flush_to_disk(path)
    else:
        with write_whole(path, durable=True) as file:
            file.write(new)


def append_lines(path: Path, lines: Iterable[bytes]) -> None:
    """Appends lines to a file, on the disk."""
    with path.open("ab") as file:
        file.writelines(line + b"\n" for line in lines)
        file.flush()
        os.fsync(file.fileno())
    flush_to_disk(path.parent)


def read_bytes(path: Path) -> bytes:
    """Returns what a file holds; nothing if there is none."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""
