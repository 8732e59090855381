"""One remote file to disk, whole: resumed where it broke off, checked, and shared between processes.

Compressed files are fetched as they are, below any decompressor: a retry there can skip or repeat bytes unseen, here
it goes on at a byte offset. What has come so far lies in `.NAME.part`; a killed process leaves nothing else, and the
next one goes on from it. The file appears under its own name only with its full size, and hash where one is known.
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
    """Nobody wants to know."""


def is_present(file: DataFile) -> bool:
    """Whether the whole file lies at its path."""
    return file.path.exists() and file.path.stat().st_size == file.num_bytes


def missing_bytes(file: DataFile) -> int:
    """How much of it is still to come."""
    return 0 if is_present(file) else max(0, file.num_bytes - _size(_part_of(file)))


def download(
    file: DataFile,
    *,
    wait: bool = True,
    make_room: Callable[[int], None] = _ignore,
    report: Callable[[int], None] = _ignore,
) -> bool:
    """Bring a remote file to its path; at once if it is there. Returns whether it is there now.

    Without `wait`, gives up when another process is fetching it. `make_room` hears how many bytes will be written,
    `report` how many more of the file's bytes are there, also of those that were before; fewer, when it starts again.
    Raises DataError when the file cannot be had, is not the listed one, or does not fit on the disk.
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
            make_room(file.num_bytes - _size(part))
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
    """Several at a time, started in this order; raises the first error at once."""
    run_all(fetch, files, NUM_CONNECTIONS)


def hash_file(path: Path) -> str:
    """sha256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(HASH_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


@contextmanager
def explained_disk_errors(folder: Path) -> Iterator[None]:
    """Turn a full disk, a quota, or a folder that cannot be written to into DataError."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            remedy = "make room, or set data.cache_dir to a larger disk; what is there is kept"
        elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST):
            remedy = "set data.cache_dir to a folder to write in"
        else:
            raise
        raise DataError(f"cannot write in {folder} ({error.strerror}); {remedy}") from error


def _receive(file: DataFile, part: Path, report: Callable[[int], None]) -> None:
    """Append to `part` what is missing; returns once all bytes are on the disk."""
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


def _part_of(file: DataFile) -> Path:
    return file.path.with_name(f".{file.path.name}.part")


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0
