"""One remote file to disk, whole: resumed where it broke off, checked, and shared between processes.

Compressed files are fetched as they are: a retry above the decompressor can skip or repeat bytes unnoticed, here it
goes on at a byte offset. The bytes received so far lie in `.NAME.part`, from which the next process goes on after a
kill, if the server or a hash can tell that the rest is of the same version (record.py). The file appears under its own
name only with its full size, and its hash: the listed one, or that of the first time it was fetched.

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
from data.fetch.answer import ChangedError, changed_error
from data.fetch.background import run_all
from data.fetch.files import DataFile
from data.fetch.fill import WholeFilesError, fill
from data.fetch.locks import file_lock
from data.fetch.record import FetchRecord, open_record, part_path, record_path
from data.fetch.retry import TransientError, retried
from data.fetch.sparse import SparseCopy

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
    there = max(_size(part_path(file.path)), SparseCopy(file).num_allocated())
    return 0 if is_present(file) else max(0, file.num_bytes - there)


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
    part = part_path(file.path)
    lock = part.with_suffix(".lock")
    with explained_disk_errors(file.path.parent):
        part.parent.mkdir(parents=True, exist_ok=True)
        with file_lock(lock, wait=wait) as held:
            if not held:
                return False
            if is_present(file):
                report(file.num_bytes)
                return True
            record = open_record(file.path, file.version, file.sha256)
            reserve(missing_bytes(file))
            for attempt in range(1, NUM_HASH_TRIES + 1):
                arrived = _fill_copy(file, part, report) or _fetch_part(file, part, record, report)
                sha256 = hash_file(arrived)
                if sha256 == (file.sha256 or record.sha256 or sha256):
                    break
                report(-_size(arrived))
                arrived.unlink()
                if attempt == NUM_HASH_TRIES:
                    raise _other_content(file)
            if sha256 != record.sha256:
                record.sha256 = sha256
                record.write(file.path)
            arrived.replace(file.path)
            SparseCopy(file).delete()
    logger.info("fetched %s: %d bytes", file.name, file.num_bytes)
    return True


def download_all(files: Sequence[DataFile], fetch: Callable[[DataFile], object] = download) -> None:
    """Fetches several files at a time, started in this order; raises the first error at once."""
    run_all(fetch, files, NUM_CONNECTIONS)


def stream_bytes(file: DataFile) -> Iterator[bytes]:
    """Yields the bytes of a remote file from its beginning, without storing them; stop at any time.

    Goes on at the same byte after a fault. Raises DataError when the file cannot be fetched, is not the listed one, or
    changes meanwhile; its hash is not checked.
    """
    assert file.origin is not None
    origin, etag, received = file.origin, file.etag, 0
    digest = hashlib.sha256()
    chunks: Iterator[bytes] | None = None

    def reopened() -> Iterator[bytes]:
        nonlocal etag
        is_same = bool(etag or origin.is_pinned)  # the place tells whether the rest is of the same version
        answer = origin.read(file.name, received if is_same else 0, file.num_bytes, etag)
        if answer.start and not (answer.etag or origin.is_pinned):  # its mark does not tell, after all
            answer, is_same = origin.read(file.name, 0, file.num_bytes, etag), False
        etag = etag or answer.etag
        if is_same:
            return _without_first(answer.chunks, received - answer.start)
        return _after_same_bytes(answer.chunks, received, digest.digest(), f"{origin.root}: {file.name}")

    def next_chunk() -> bytes:
        nonlocal chunks
        try:
            chunks = chunks or reopened()
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
        digest.update(chunk)
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


def _other_content(file: DataFile) -> DataError:
    assert file.origin is not None
    place = f"{file.origin.root}: {file.name}"
    if file.sha256 is not None:
        return DataError(f"{place} does not have its listed sha256; nothing was kept")
    return DataError(
        f"{place} is no longer the file that was fetched first, by its sha256; delete {record_path(file.path)} to "
        "train on it as it is now"
    )


def _fill_copy(file: DataFile, part: Path, report: Callable[[int], None]) -> Path | None:
    """Fetches what is missing to the copy of a file whose rows have been read, if there is one; returns where it lies.

    Of a place that sends whole files only, the copy is dropped.
    """
    copy, arrived = SparseCopy(file), 0
    if not copy.exists():
        return None

    def count(num_bytes: int) -> None:
        nonlocal arrived
        arrived += num_bytes
        report(num_bytes)

    try:
        fill(copy, part, count)
    except WholeFilesError:
        copy.delete()
        report(-arrived)
        return None
    return copy.path


def _fetch_part(file: DataFile, part: Path, record: FetchRecord, report: Callable[[int], None]) -> Path:
    """Fetches a file in one go to its part; returns where it lies."""
    report(_size(part))
    retried(lambda: _receive(file, part, record, report), lambda: _size(part))
    return part


def _receive(file: DataFile, part: Path, record: FetchRecord, report: Callable[[int], None]) -> None:
    """Appends to `part` what is missing; returns once all bytes are on the disk. Raises TransientError, DataError."""
    assert file.origin is not None

    def drop() -> None:
        report(-_size(part))
        part.unlink()

    if _size(part) > file.num_bytes:
        drop()
    if _size(part) == file.num_bytes and part.exists():
        return
    etag = file.etag or (record.etag if _size(part) else None)
    if _size(part) and not (etag or file.sha256 or file.origin.is_pinned):
        logger.warning("%s: %s has no ETag and no date: once more from its beginning", file.origin.root, file.name)
        drop()
    try:
        answer = file.origin.read(file.name, _size(part), file.num_bytes, etag)
    except ChangedError as error:
        if file.etag:
            raise
        drop()
        raise TransientError(f"{file.origin.root}: {file.name} changed while it was fetched") from error
    if answer.start and not (answer.etag or file.sha256 or file.origin.is_pinned):  # may be of another version
        logger.warning("%s: %s comes without its mark: once more from its beginning", file.origin.root, file.name)
        drop()
        answer = file.origin.read(file.name, 0, file.num_bytes, etag)
    report(answer.start - _size(part))
    with part.open("ab") as output:
        output.truncate(answer.start)
        if not answer.start:
            record.etag = answer.etag
            record.write(file.path)
        size = answer.start
        for chunk in answer.chunks:
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


def _after_same_bytes(chunks: Iterator[bytes], num_bytes: int, digest: bytes, address: str) -> Iterator[bytes]:
    """Yields what follows the first `num_bytes`; raises ChangedError if those do not have this sha256."""
    found, rest = hashlib.sha256(), num_bytes
    for chunk in chunks:
        found.update(chunk[:rest])
        chunk, rest = chunk[rest:], max(0, rest - len(chunk))
        if not rest and found.digest() != digest:
            raise changed_error(address)
        if chunk:
            yield chunk


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0
