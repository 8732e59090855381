"""One remote file to disk, whole: resumed where it broke off, checked, and shared between processes.

Compressed files are fetched as they are: a retry above the decompressor can skip or repeat bytes unnoticed, here it
goes on at a byte offset. The bytes received so far lie in `.NAME.part`, from which the next process goes on after a
kill. The file appears under its own name only with its full size, and its hash where one is known.

`stream_bytes` reads a remote file without storing it, for readers that need its beginning only.
"""

import errno
import hashlib
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from data.errors import DataError
from data.fetch.background import run_all
from data.fetch.files import DataFile
from data.fetch.locks import file_lock
from data.fetch.retry import TransientError, retried

logger = logging.getLogger(__name__)

NUM_CONNECTIONS = 8
HASH_BYTES = 1 << 22
NUM_HASH_TRIES = 2


def _ignore(num_bytes: int) -> None:
    """Does nothing: the default of callbacks."""


def is_present(file: DataFile) -> bool:
    """Returns whether the whole file lies at its path."""
    return file.path.exists() and file.path.stat().st_size == file.num_bytes


def missing_bytes(file: DataFile) -> int:
    """Returns how many bytes are still to be fetched."""
    return 0 if is_present(file) else max(0, file.num_bytes - _size(_part_of(file)))


def download(
    file: DataFile,
    *,
    wait: bool = True,
    reserve: Callable[[int], None] = _ignore,
    report: Callable[[int], None] = _ignore,
) -> bool:
    """Fetches a remote file to its path, unless it is there already. Returns whether it is there now.

    Without `wait`, returns False when another process is fetching it. `reserve` is called with the number of bytes that
    will be written; `report` with each number of bytes that have arrived, those of an earlier process included, and
    with a negative one when they are dropped. Raises DataError when the file cannot be fetched, is not the listed one,
    or does not fit on the disk.
    """
    if is_present(file):
        report(file.num_bytes)
        return True
    if file.origin is None:
        raise DataError(f"{file.path} is gone; put it back, or mount what it lay on")
    part = _part_of(file)
    lock = part.with_suffix(".lock")
    with explained_disk_errors(file.path.parent):
        part.parent.mkdir(parents=True, exist_ok=True)
        with file_lock(lock, wait=wait) as held:
            if not held:
                return False
            if is_present(file):
                report(file.num_bytes)
                return True
            # The lock file says of which version the part is: one file is never put together from two.
            if lock.read_text() not in ("", file.version):
                part.unlink(missing_ok=True)
            lock.write_text(file.version)
            reserve(file.num_bytes - _size(part))
            report(_size(part))
            for attempt in range(1, NUM_HASH_TRIES + 1):
                retried(lambda: _receive(file, part, report), lambda: _size(part))
                if file.sha256 is None or hash_file(part) == file.sha256:
                    break
                report(-_size(part))
                part.unlink()
                if attempt == NUM_HASH_TRIES:
                    raise DataError(
                        f"{file.origin.root}: {file.name} does not have its listed sha256; nothing was kept"
                    )
            part.replace(file.path)
    logger.info("fetched %s: %d bytes", file.name, file.num_bytes)
    return True


def download_all(files: Sequence[DataFile], fetch: Callable[[DataFile], object] = download) -> None:
    """Fetches several files at a time, started in this order; raises the first error at once."""
    run_all(fetch, files, NUM_CONNECTIONS)


def stream_bytes(file: DataFile) -> Iterator[bytes]:
    """Yields the bytes of a remote file from its beginning, without storing them; stop at any time.

    Goes on at the same byte after a fault. Raises DataError when the file cannot be fetched or is not the listed one;
    its hash is not checked.
    """
    assert file.origin is not None
    origin, received = file.origin, 0
    chunks: Iterator[bytes] | None = None

    def next_chunk() -> bytes:
        nonlocal chunks
        try:
            if chunks is None:
                start, body = origin.read(file.name, received, file.num_bytes, file.etag)
                chunks = _without_first(body, received - start)
            chunk = next(chunks, b"")
            if not chunk and received < file.num_bytes:
                raise TransientError(f"{origin.root}: {file.name} ended after {received:,} of {file.num_bytes:,} bytes")
            return chunk
        except TransientError:
            chunks = None
            raise

    def progress() -> int:
        return received

    while chunk := retried(next_chunk, progress):
        received += len(chunk)
        yield chunk


def hash_file(path: Path) -> str:
    """Returns the sha256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(HASH_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


@contextmanager
def explained_disk_errors(folder: Path) -> Iterator[None]:
    """Raises DataError instead of OSError for a full disk, a disk quota, and a folder that cannot be written to."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            remedy = "free disk space, or set data.cache_dir to a larger disk; what is there is kept"
        elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST):
            remedy = "set data.cache_dir to a folder to write in"
        else:
            raise
        raise DataError(f"cannot write in {folder} ({error.strerror}); {remedy}") from error


def _receive(file: DataFile, part: Path, report: Callable[[int], None]) -> None:
    """Appends to `part` what is missing; returns once all bytes are on the disk. Raises TransientError, DataError."""
    assert file.origin is not None
    if _size(part) > file.num_bytes:
        report(-_size(part))
        part.unlink()
    if _size(part) == file.num_bytes and part.exists():
        return
    start, chunks = file.origin.read(file.name, _size(part), file.num_bytes, file.etag)
    report(start - _size(part))
    with part.open("ab") as output:
        output.truncate(start)
        size = start
        for chunk in chunks:
            size += len(chunk)
            if size > file.num_bytes:
                break
            output.write(chunk)
            report(len(chunk))
        output.flush()
        os.fsync(output.fileno())
    if size != file.num_bytes:
        raise TransientError(
            f"{file.origin.root}: {file.name} came as {size:,} bytes where {file.num_bytes:,} are listed"
        )


def _without_first(chunks: Iterator[bytes], num_bytes: int) -> Iterator[bytes]:
    for chunk in chunks:
        dropped = min(num_bytes, len(chunk))
        num_bytes -= dropped
        if dropped < len(chunk):
            yield chunk[dropped:]


def _part_of(file: DataFile) -> Path:
    return file.path.with_name(f".{file.path.name}.part")


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0
