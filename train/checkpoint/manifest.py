"""What a checkpoint consists of: every file's size and digest, so that a torn or altered one is never taken for whole.

A file is digested on its way to the disk and flushed there by the rank that writes it. The manifest is written last,
and carries a digest of itself. XXH3 (128 bits) finds any accident at the speed of memory, 6 GB/s on a core that makes
0.7 GB/s of BLAKE2b; it does not guard against forgery.
"""

import errno
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import torch
import xxhash

from train.errors import TrainError

MANIFEST = "manifest.json"
FORMAT = 1  # of the manifest and the files it lists; a manifest without a number is of the first format
CHUNK = 1 << 24  # bytes read at once


@contextmanager
def without_crc32() -> Iterator[None]:
    """torch.save without the zip format's CRC-32: at 0.2 GB/s that is most of a save, and our digest replaces it."""
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        yield
    finally:
        torch.serialization.set_crc32_options(before)


class DamageError(Exception):
    """A file that is not what was written; the message names it."""


class VersionError(TrainError):
    """Files that are what was written, by a version of this program that writes others."""

    @classmethod
    def of(cls, folder: Path) -> "VersionError":
        """The error about this checkpoint."""
        return cls(
            f"{folder} was written by another version of this program: go on with that one, or give the new run a name "
            "of its own"
        )


@dataclass(frozen=True)
class FileRecord:
    """What a manifest knows of a file."""

    size: int
    digest: str
    rank: int  # that wrote it, and reads it first when the same number of ranks resumes


class DigestingFile:
    """A new file that is digested as it is written."""

    def __init__(self, path: Path) -> None:
        self._file: IO[bytes] = path.open("wb")
        self._hash = xxhash.xxh3_128()
        self._size = 0
        self.error: OSError | None = None  # kept, because what writes through this may raise something else instead

    def write(self, data: Any) -> int:
        """Append bytes or a view of bytes."""
        try:
            self._hash.update(data)
            self._size += len(data)
            return self._file.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        """For torch.save; `seal` does it."""

    def seal(self, rank: int) -> FileRecord:
        """Flush everything to the disk, close, and say what was written."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        return FileRecord(self._size, self._hash.hexdigest(), rank)

    def close(self) -> None:
        """Give the file back in any case."""
        try:
            self._file.close()
        except OSError as error:  # what was still buffered does not fit either
            self.error = self.error or error


def write_manifest(folder: Path, fields: dict[str, Any], files: dict[str, FileRecord]) -> None:
    """List `files`, by their paths below `folder`, in a manifest that is flushed to the disk, and so is the folder."""
    body = {"format": FORMAT, **fields, "files": {name: asdict(record) for name, record in sorted(files.items())}}
    with (folder / MANIFEST).open("w") as file:
        json.dump({**body, "digest": _digest_of(body)}, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    flush_to_disk(folder)


def read_manifest(folder: Path) -> tuple[dict[str, Any], dict[str, FileRecord]]:
    """The fields and the files of a manifest; DamageError if it is not what was written, or a file has another size.

    Raises VersionError if it is what another version wrote, and TrainError as `find_damage` does.
    """
    with _reading(folder, MANIFEST):
        text = (folder / MANIFEST).read_bytes()
    try:
        body = json.loads(text)
        digest = body.pop("digest")
    except (ValueError, KeyError, TypeError, AttributeError):
        raise DamageError(f"{MANIFEST} is torn") from None
    if digest != _digest_of(body):
        raise DamageError(f"{MANIFEST} is altered")
    if body.pop("format", 1) != FORMAT:
        raise VersionError.of(folder)
    try:
        files = {name: FileRecord(**record) for name, record in body.pop("files").items()}
    except (KeyError, TypeError, AttributeError):
        raise VersionError.of(folder) from None
    for name, record in files.items():
        with _reading(folder, name):
            size = (folder / name).stat().st_size
        if size != record.size:
            raise DamageError(f"{name} has {size} bytes instead of {record.size}")
    return body, files


def find_damage(folder: Path, files: Iterable[tuple[str, FileRecord]]) -> str | None:
    """Read these files from end to end; what is wrong with the first that is not what was written, or None.

    Raises TrainError if a file cannot be read for a reason that says nothing about it, such as a missing permission.
    """
    for name, record in files:
        try:
            with _reading(folder, name):
                digest = digest_file(folder / name)
        except DamageError as error:
            return str(error)
        if digest != record.digest:
            return f"{name} is altered"
    return None


def digest_file(path: Path) -> str:
    """The digest of a file's bytes."""
    digest, buffer = xxhash.xxh3_128(), memoryview(bytearray(CHUNK))
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            digest.update(buffer[:count])
    return digest.hexdigest()


def flush_to_disk(path: Path) -> None:
    """A folder's entries, or a file's bytes, outlive a power failure from here on."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _reading(folder: Path, name: str) -> Iterator[None]:
    """Tells damage from what says nothing about the file: DamageError or TrainError instead of OSError."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError):
        raise DamageError(f"{name} is missing") from None
    except OSError as error:
        if error.errno == errno.EIO:
            raise DamageError(f"{name} cannot be read: {error.strerror}") from error
        raise TrainError(f"cannot read {folder / name}: {error.strerror}; repair that, and start again") from error


def _digest_of(body: dict[str, Any]) -> str:
    return xxhash.xxh3_128_hexdigest(json.dumps(body, sort_keys=True).encode())
