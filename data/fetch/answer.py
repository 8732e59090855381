"""What a remote place answers when a file is read."""

import re
from collections.abc import Iterator
from typing import NamedTuple

from data.errors import DataError
from data.fetch.retry import TransientError

HTTP_DATE = re.compile(r"[A-Z][a-z]{2}, \d{2} ")
BETWEEN_MARKS = "\t"  # an ETag and a date


class Answer(NamedTuple):
    """The bytes of one version of a file, from a byte on."""

    start: int
    """The first byte: the one asked for, or 0 from a place that sends whole files only."""
    chunks: Iterator[bytes]
    """The bytes up to the end; raises TransientError and DataError."""
    etag: str | None
    """The mark of this version; None: the place gives none."""


class Piece(NamedTuple):
    """A range of the bytes of one version of a file."""

    content: bytes
    """All that was asked for."""
    etag: str | None
    """The mark of this version; None: the place gives none."""


class NoRangesError(TransientError):
    """A place sent the whole file where a range was asked for."""


class ChangedError(DataError):
    """A file is no longer the listed one."""


def changed_error(address: str) -> ChangedError:
    """Returns the error for the file at this address."""
    return ChangedError(
        f"{address} has changed on the server since it was listed; delete .listing.json in the folder it is fetched to "
        "(or use a fresh data.cache_dir), and all is fetched as it is now"
    )


def is_same_version(mark: str, other: str) -> bool | None:
    """Returns whether two marks are of one version of a file; None: they have nothing in common to tell.

    ETags are compared where both have one, else dates: servers with the same files may have written them at different
    times.
    """
    one, two = _by_kind(mark), _by_kind(other)
    kind = next((kind for kind in ("ETag", "date") if kind in one and kind in two), None)
    return one[kind] == two[kind] if kind else None


def _by_kind(mark: str) -> dict[str, str]:
    return {"date" if HTTP_DATE.match(part) else "ETag": part.removeprefix("W/") for part in mark.split(BETWEEN_MARKS)}
