"""A local copy of a part of a remote file: blocks of it, each with a digest that says that it is there, and whole.

`.NAME.rows` has the size of the file, and holes where nothing has been fetched; `.NAME.digests` has eight bytes for
each block of 16 KiB. A block counts only while its bytes have their digest. So there is nothing to flush in any order,
to lock or to repair: after a kill, a power failure or a flipped bit the block is fetched again. Any number of processes
write to one copy, for they write the same bytes to the same places. Nothing stays open, so a copy can be emptied, or
become the whole file, while others read it.

Blocks are emptied by truncation, and their digests stay: a block that is fetched again has to be as it came first.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import xxhash

from data.fetch.answer import ChangedError, is_same_version
from data.fetch.files import DataFile
from data.fetch.locks import file_lock
from data.fetch.record import FetchRecord, part_path, read_record, record_path

BLOCK_BYTES = 1 << 14  # a row of 4,096 tokens
DIGEST = np.dtype("<u8")
VERSION_BYTES = 16  # at the beginning of the digests: of which version of the file they are
BYTES_PER_STAT_BLOCK = 512


@dataclass(frozen=True)
class SparseCopy:
    """The copy of one remote file; may not exist yet."""

    file: DataFile
    """The file that it is a copy of."""

    @cached_property
    def path(self) -> Path:
        """The bytes."""
        return self.file.path.with_name(f".{self.file.path.name}.rows")

    @cached_property
    def digests(self) -> Path:
        """The digests of its blocks; 0: never fetched."""
        return self.file.path.with_name(f".{self.file.path.name}.digests")

    @property
    def num_blocks(self) -> int:
        """Blocks of the whole file; the last one may be shorter."""
        return -(-self.file.num_bytes // BLOCK_BYTES)

    @property
    def digest_bytes(self) -> int:
        """Bytes of the digests of all blocks."""
        return _place(self.num_blocks)

    def exists(self) -> bool:
        """Returns whether there is a copy, of this or another version."""
        return self.path.exists()

    def create(self) -> None:
        """Makes an empty copy, unless there is one of this version of the file. Raises OSError."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with file_lock(self.digests), self.path.open("ab") as content:
            version = xxhash.xxh3_128_digest(self.file.version.encode())
            with self.digests.open("r+b") as digests:
                if digests.read(VERSION_BYTES) != version:
                    digests.truncate(0)
                    digests.seek(0)
                    digests.write(version)
            if os.fstat(content.fileno()).st_size != self.file.num_bytes:
                content.truncate(self.file.num_bytes)

    def extent(self, blocks: range) -> tuple[int, int]:
        """Returns the first byte of these blocks, and the one after the last."""
        return blocks.start * BLOCK_BYTES, min(blocks.stop * BLOCK_BYTES, self.file.num_bytes)

    def read(self, blocks: range) -> tuple[bytearray, list[bool]]:
        """Returns the bytes of these blocks, and for each whether it is there, whole. Raises OSError."""
        start, stop = self.extent(blocks)
        content = bytearray(stop - start)
        listed = np.zeros(len(blocks), DIGEST)
        try:
            _read_at(self.digests, listed.data, _place(blocks.start))
            if listed.any():
                _read_at(self.path, content, start)
        except (FileNotFoundError, NotADirectoryError):
            listed[:] = 0
        if not listed.any():
            return content, [False] * len(blocks)
        found = (_digest(piece, number) for number, piece in self._pieces(blocks.start, content))
        return content, [digest == known for digest, known in zip(found, listed.tolist(), strict=True)]

    def write(self, first: int, content: bytes) -> None:
        """Keeps whole blocks from the `first` one on; does nothing if the copy has become the whole file or is gone.

        Raises ChangedError where a block that was emptied comes back as another one, and OSError.
        """
        pieces = list(self._pieces(first, content))
        digests = np.array([_digest(piece, number) for number, piece in pieces], DIGEST)
        listed = np.zeros(len(digests), DIGEST)
        try:
            _read_at(self.digests, listed.data, _place(first))
            for index in np.flatnonzero((listed != 0) & (listed != digests)):
                self._refuse_another(*pieces[index])
            _write_at(self.path, content, first * BLOCK_BYTES)
            _write_at(self.digests, digests.data, _place(first))
        except FileNotFoundError:
            pass

    def mark(self, etag: str | None) -> str | None:
        """Returns the mark that all answers must have: `etag`, of the first answer, where none was listed or kept.

        None: the place gives none. Raises ChangedError if the mark is another already, and OSError.
        """
        assert self.file.origin is not None
        if self.file.etag or self.file.origin.is_pinned:
            return self.file.etag
        with file_lock(self.digests):
            record = read_record(self.file.path)
            if record is None or record.version != self.file.version:
                record = FetchRecord(self.file.version)
            if etag is not None and record.etag is None:
                record.etag = etag
                record.write(self.file.path)
        if etag and record.etag and is_same_version(record.etag, etag) is False:
            raise self._changed(record_path(self.file.path))
        return record.etag

    def num_allocated(self) -> int:
        """Returns how many bytes it takes on the disk."""
        return allocated(self.path)

    def empty(self) -> bool:
        """Frees the space of all blocks, unless it is being filled; returns whether it did. Raises OSError."""
        with file_lock(part_path(self.file.path).with_suffix(".lock"), wait=False) as held:
            if held and self.exists():
                os.truncate(self.path, 0)
                os.truncate(self.path, self.file.num_bytes)
        return held

    def delete(self) -> None:
        """Deletes it, if there is one."""
        self.path.unlink(missing_ok=True)
        self.digests.unlink(missing_ok=True)

    def _pieces(self, first: int, content: bytes | bytearray) -> Iterator[tuple[int, memoryview]]:
        view = memoryview(content)
        for start in range(0, len(content), BLOCK_BYTES):
            yield first + start // BLOCK_BYTES, view[start : start + BLOCK_BYTES]

    def _refuse_another(self, number: int, piece: memoryview) -> None:
        """Raises ChangedError if the block is a hole: then its digest is that of its first coming, and not damage."""
        kept = bytearray(len(piece))
        _read_at(self.path, kept, number * BLOCK_BYTES)
        if not any(kept):
            raise self._changed(self.digests)

    def _changed(self, evidence: Path) -> ChangedError:
        assert self.file.origin is not None
        return ChangedError(
            f"{self.file.origin.root}: {self.file.name} is no longer the file whose rows were read first; delete "
            f"{evidence} to train on it as it is now"
        )


def allocated(path: Path) -> int:
    """Returns how many bytes a file takes on the disk; 0 where there is none."""
    try:
        return path.stat().st_blocks * BYTES_PER_STAT_BLOCK
    except FileNotFoundError:
        return 0


def _place(number: int) -> int:
    """Returns where the digest of a block lies."""
    return VERSION_BYTES + number * DIGEST.itemsize


def _digest(piece: memoryview, number: int) -> int:
    return xxhash.xxh3_64_intdigest(piece, number) or 1


def _read_at(path: Path, buffer: bytearray | memoryview, start: int) -> None:
    """Fills the buffer from this byte of the file on; what lies behind the end stays as it is."""
    rest = memoryview(buffer).cast("B")
    descriptor = os.open(path, os.O_RDONLY)
    try:
        while rest and (count := os.preadv(descriptor, [rest], start)):
            rest, start = rest[count:], start + count
    finally:
        os.close(descriptor)


def _write_at(path: Path, content: bytes | memoryview, start: int) -> None:
    rest = memoryview(content).cast("B")
    descriptor = os.open(path, os.O_WRONLY)
    try:
        while rest:
            count = os.pwrite(descriptor, rest, start)
            rest, start = rest[count:], start + count
    finally:
        os.close(descriptor)
