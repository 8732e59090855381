"""Files of object storage, or of any other file system that fsspec knows."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from data.errors import DataError
from data.fetch.retry import TransientError
from data.fetch.web import CHUNK_BYTES, changed_error

EXTRAS = {"s3": "s3fs", "gs": "gcsfs", "gcs": "gcsfs"}


class Bucket:
    """The files below a prefix of a bucket; a `data.fetch.remote.Remote`."""

    def __init__(self, root: str) -> None:
        """Opens the file system; raises DataError for an unknown scheme, and for one whose package is not installed."""
        import fsspec

        scheme = root.split("://")[0]
        try:
            self._files, self._prefix = fsspec.url_to_fs(root)
        except ImportError as error:
            package = EXTRAS.get(scheme, str(error))
            raise DataError(f"{root} needs the package {package}; install it with pip") from error
        except (ValueError, TypeError, OSError) as error:
            raise DataError(f"{root} is of no known kind ({error}); use https://, hf://, s3:// or gs://") from error
        self.root = root

    def listing(self, names: Sequence[str] | None = None) -> dict[str, dict[str, Any]]:
        """Returns size and, if the store has one, ETag of the named files, or of all; raises DataError."""
        try:
            found = self._files.find(self._prefix, detail=True)
        except Exception as error:  # each file system has its own
            raise DataError(
                f"{self.root} cannot be listed ({error}); correct data.root or your access to it"
            ) from error
        start = len(self._prefix.rstrip("/")) + 1
        entries = {path[start:]: {"bytes": item["size"], "etag": _etag_of(item)} for path, item in found.items()}
        return entries if names is None else {name: entries[name] for name in names if name in entries}

    def read(self, name: str, start: int, num_bytes: int, etag: str | None = None) -> tuple[int, Iterator[bytes]]:
        """Returns `start` and the bytes from there on; the iterator raises TransientError and DataError."""
        return start, self._read(f"{self._prefix.rstrip('/')}/{name}", start, etag)

    def _read(self, path: str, start: int, etag: str | None) -> Iterator[bytes]:
        try:
            self._files.invalidate_cache()  # it remembers sizes and ETags of the listing
            with self._files.open(path, "rb") as file:
                found = _etag_of(self._files.info(path))
                if etag and found and found != etag:
                    raise changed_error(f"{self.root}: {path}")
                file.seek(start)
                while chunk := file.read(CHUNK_BYTES):
                    yield chunk
        except DataError:
            raise
        except FileNotFoundError as error:
            raise DataError(f"{self.root} no longer has {path}; correct data.root or the file list") from error
        except Exception as error:  # each file system has its own
            raise TransientError(f"{path} broke off ({type(error).__name__})") from error


def _etag_of(item: Mapping[str, Any]) -> str | None:
    """Returns what tells versions of an object apart; file systems spell the key in two ways."""
    etag = item.get("ETag") or item.get("etag")
    return str(etag) if etag else None
