"""Files of object storage, or of any other file system that fsspec knows."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from data.errors import DataError
from data.fetch.answer import Answer, changed_error
from data.fetch.credentials import masked, with_credentials
from data.fetch.retry import TransientError

CHUNK_BYTES = 1 << 20
MARKS = ("ETag", "etag", "LastModified", "last_modified", "mtime", "modify", "modificationTime")
EXTRAS = {"s3": "s3fs", "gs": "gcsfs", "gcs": "gcsfs"}


class Bucket:
    """The files below a prefix of a bucket; a `data.fetch.remote.Remote`."""

    is_pinned = False

    def __init__(self, root: str) -> None:
        """Opens the file system; raises DataError for an unknown scheme, and for one whose package is not installed."""
        import fsspec

        scheme = root.split("://")[0]
        try:
            self._files, self._prefix = fsspec.url_to_fs(with_credentials(root))
        except ImportError as error:
            package = EXTRAS.get(scheme, str(error))
            raise DataError(f"{root} needs the package {package}; install it with pip") from error
        except (ValueError, TypeError, OSError) as error:
            raise DataError(
                f"{root} is of no known kind ({masked(str(error))}); use https://, hf://, s3:// or gs://"
            ) from error
        self.root = root

    def listing(self, names: Sequence[str] | None = None) -> dict[str, dict[str, Any]]:
        """Returns size and, if the store has one, mark of the named files, or of all; raises DataError."""
        try:
            found = self._files.find(self._prefix, detail=True)
        except Exception as error:  # each file system has its own
            raise DataError(
                f"{self.root} cannot be listed ({masked(str(error))}); correct data.root or your access to it"
            ) from error
        start = len(self._prefix.rstrip("/")) + 1
        entries = {path[start:]: {"bytes": item["size"], "etag": _mark_of(item)} for path, item in found.items()}
        return entries if names is None else {name: entries[name] for name in names if name in entries}

    def read(self, name: str, start: int, num_bytes: int, etag: str | None = None) -> Answer:
        """Returns the bytes from `start` on; raises TransientError and DataError, as the iterator does."""
        path = f"{self._prefix.rstrip('/')}/{name}"
        with self._explained_errors(path):
            self._files.invalidate_cache()  # it remembers sizes and marks of the listing
            info = self._files.info(path)
        found = _mark_of(info)
        if info["size"] != num_bytes or (etag and found and found != etag):
            raise changed_error(f"{self.root}: {path}")
        return Answer(start, self._chunks(path, start), found)

    def _chunks(self, path: str, start: int) -> Iterator[bytes]:
        with self._explained_errors(path), self._files.open(path, "rb") as file:
            file.seek(start)
            while chunk := file.read(CHUNK_BYTES):
                yield chunk

    @contextlib.contextmanager
    def _explained_errors(self, path: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            raise DataError(f"{self.root} no longer has {path}; correct data.root or the file list") from error
        except Exception as error:  # each file system has its own
            raise TransientError(f"{path} broke off ({type(error).__name__})") from error


def _mark_of(item: Mapping[str, Any]) -> str | None:
    """Returns what tells versions of an object apart; file systems spell the key in many ways."""
    return next((str(item[key]) for key in MARKS if item.get(key)), None)
