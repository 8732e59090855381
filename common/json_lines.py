"""JSON-lines files: rows are appended whole; on a full disk they wait in memory and are written later."""

import json
import logging
import os
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)


class JsonLines:
    """Appends rows to a file, each on disk (the page cache) when `append` returns.

    When the disk is full or gone, rows wait in memory and are written with a later one; the run goes on.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._waiting: list[bytes] = []

    def append(self, row: dict[str, Any]) -> None:
        """Writes this row, and those that still wait. Warns once if it cannot; never raises OSError."""
        had_to_wait = bool(self._waiting)
        self._waiting.append(json.dumps(row).encode() + b"\n")
        try:
            self._write(b"".join(self._waiting))
            self._waiting.clear()
        except OSError as error:
            if not had_to_wait:
                logger.warning("cannot write %s (%s): its lines wait in memory", self._path, error.strerror)

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


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """Returns all whole lines of a JSON-lines file, without a truncated line; empty if there is no file."""
    if not path.exists():
        return []
    rows = []
    for line in path.read_text(errors="replace").splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue
    return rows
