"""What a remote place answers when a file is read."""

from collections.abc import Iterator
from typing import NamedTuple

from data.errors import DataError
from data.fetch.retry import TransientError


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
