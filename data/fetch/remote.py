"""The interface of the places that files are fetched from, and which class an address leads to.

A remote lists what it holds and sends a file from any byte on. Resuming, checking and sharing between processes are the
same for all of them (download.py).

    https://host/prefix                              a web server; with a manifest.json, patterns work too   web.py
    hf://datasets/OWNER/NAME[@REVISION][/FOLDER]     a dataset of the hub, at the commit first seen          hub.py
    s3://bucket/prefix, gs://bucket/prefix           any file system that fsspec knows                       bucket.py
"""

import re
from collections.abc import Sequence
from typing import Any, Protocol

from data.fetch.answer import Answer, Piece
from data.fetch.bucket import Bucket
from data.fetch.hub import HubFolder, parse_hub
from data.fetch.web import WebFolder

SCHEME = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)


class Remote(Protocol):
    """A place with files below a root address."""

    root: str
    """Its address; leads to the same files at any later time, where the place has revisions."""
    is_pinned: bool
    """Whether the files at this address never change, because it names a revision."""

    def listing(self, names: Sequence[str] | None = None) -> dict[str, dict[str, Any]]:
        """Returns `bytes` and, if known, `sha256` and `etag` of the named files, or of all; by path below the root.

        The `etag` is any mark that changes with the content: an ETag, or the time of the last change.

        Raises DataError when the place cannot be listed, or has no such file.
        """
        ...

    def read(self, name: str, start: int, num_bytes: int, etag: str | None = None) -> Answer:
        """Returns the bytes of a file of `num_bytes` from `start` on, or from its beginning, to its end.

        Raises TransientError for what may pass, and DataError for what will not: a file whose `etag` is another by now.
        """
        ...

    def read_range(self, name: str, start: int, stop: int, num_bytes: int, etag: str | None = None) -> Piece:
        """Returns the bytes from `start` up to `stop` of a file of `num_bytes`; may be called by many threads.

        Raises TransientError and DataError as `read` does, and NoRangesError where the place sends whole files only.
        """
        ...


def is_remote(root: str) -> bool:
    """Returns whether this is an address, not a folder."""
    return SCHEME.match(root) is not None


def open_remote(root: str) -> Remote:
    """Returns the remote at an address. Only the hub is asked at once: which commit a revision is.

    Raises DataError for an address of no known kind, and when the hub does not know it.
    """
    if root.startswith(("http://", "https://")):
        return WebFolder(root)
    if root.startswith("hf://"):
        return HubFolder(parse_hub(root))
    return Bucket(root)
