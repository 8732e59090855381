"""Files of object storage, or of any other file system that fsspec knows."""

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from data.errors import DataError
from data.fetch.answer import Answer, NoRangesError, Piece, changed_error
from data.fetch.connections import MAX_CONNECTIONS
from data.fetch.credentials import masked, with_credentials
from data.fetch.retry import TransientError

CHUNK_BYTES = 1 << 20
MARKS = ("ETag", "etag", "LastModified", "last_modified", "mtime", "modify", "modificationTime")
OPTIONS: dict[str, dict[str, Any]] = {"s3": {"config_kwargs": {"max_pool_connections": MAX_CONNECTIONS}}}
EXTRAS = {"s3": "s3fs", "gs": "gcsfs", "gcs": "gcsfs"}


class Bucket:
    """The files below a prefix of a bucket; a `data.fetch.remote.Remote`."""

    is_pinned = False

    def __init__(self, root: str) -> None:
        """Opens the file system; raises DataError for an unknown scheme, and for one whose package is not installed."""
        self.root = root
        self._open()

    def _open(self) -> None:
        import fsspec

        scheme = self.root.split("://")[0]
        try:
            self._opened, self._prefix = fsspec.url_to_fs(with_credentials(self.root), **OPTIONS.get(scheme, {}))
        except ImportError as error:
            package = EXTRAS.get(scheme, str(error))
            raise DataError(f"{self.root} needs the package {package}; install it with pip") from error
        except (ValueError, TypeError, OSError) as error:
            raise DataError(
                f"{self.root} is of no known kind ({masked(str(error))}); use https://, hf://, s3:// or gs://"
            ) from error
        self._process = os.getpid()

    @property
    def _files(self) -> Any:
        """The file system of this process: its connections do not survive a fork."""
        if self._process != os.getpid():
            self._open()
        return self._opened

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

    def read_range(self, name: str, start: int, stop: int, num_bytes: int, etag: str | None = None) -> Piece:
        """Returns the bytes from `start` up to `stop`; raises TransientError and DataError.

        S3 says of which version they are in the same answer. Others are asked after it: twice as many requests.
        """
        path = f"{self._prefix.rstrip('/')}/{name}"
        with self._explained_errors(path):
            if hasattr(self._files, "call_s3"):
                from fsspec.asyn import sync

                content, size, found = sync(self._files.loop, _get_object, self._files, path, start, stop)
            else:
                content = self._files.cat_file(path, start=start, end=stop)
                self._files.invalidate_cache(self._files._parent(path))
                info = self._files.info(path)
                size, found = info["size"], _mark_of(info)
        if size != num_bytes or (etag and found and found != etag):
            raise changed_error(f"{self.root}: {path}")
        if len(content) == num_bytes != stop - start:
            raise NoRangesError(f"{self.root}: {path} is sent whole where a range of it is asked for")
        if len(content) != stop - start:
            raise TransientError(f"{self.root}: {path} came as {len(content):,} of {stop - start:,} bytes")
        return Piece(content, found)

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


async def _get_object(files: Any, path: str, start: int, stop: int) -> tuple[bytes, int, str]:
    """Returns the bytes, the size of the whole object and its ETag, from one answer of S3."""
    bucket, key, _ = files.split_path(path)
    answer = await files._call_s3("get_object", Bucket=bucket, Key=key, Range=f"bytes={start}-{stop - 1}")
    async with answer["Body"] as body:
        content = await body.read()
    size = int(answer.get("ContentRange", f"/{answer['ContentLength']}").rsplit("/")[-1])
    return content, size, answer["ETag"]


def _mark_of(item: Mapping[str, Any]) -> str | None:
    """Returns what tells versions of an object apart; file systems spell the key in many ways."""
    return next((str(item[key]) for key in MARKS if item.get(key)), None)
