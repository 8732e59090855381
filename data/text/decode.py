"""Lines of a data file, plain or compressed; a file that was cut short raises instead of ending early.

Both decompressors report whether a frame is complete. Checking that after the last byte tells a whole file from a
truncated one, even if the cut falls on a line boundary and the text so far parses.
"""

import hashlib
import itertools
import os
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import zstandard

from data.errors import DataError

CHUNK_BYTES = 1 << 20
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
GZIP_MAGIC = b"\x1f\x8b"
MAX_WINDOW_BYTES = 1 << 31  # files made with `zstd --long=31` need it
MAX_LINE_BYTES = 1 << 30  # reading a line takes four to seven times its size in memory


class Decompressor(Protocol):
    """The part of zlib's and zstandard's decompression objects that is used here."""

    @property
    def eof(self) -> bool:
        """Whether the end of a frame has been reached."""
        ...

    @property
    def unused_data(self) -> bytes:
        """The bytes after that end."""
        ...

    def decompress(self, data: bytes, /) -> bytes:
        """Returns what these bytes decompress to."""
        ...


def read_lines(path: Path, sha256: str | None = None) -> Iterator[bytes]:
    """Yields the lines of a plain, gzip or zstd file, without their newlines.

    Raises DataError, naming the file, when it is truncated, damaged, or does not match `sha256`.
    """
    return decode_lines(path, read_chunks(path, sha256))


def decode_lines(path: Path, chunks: Iterator[bytes], separator: bytes | None = b"\n") -> Iterator[bytes]:
    """Yields the lines of a plain, gzip or zstd file from its bytes; `path` is for its suffix and for messages.

    A line ends with `separator`, which is not part of it; None: all is one line. Where the separator is longer than one
    line end and has no "\\r", "\\r\\n" is read as "\\n". Raises DataError when the bytes are
    damaged or end within a frame, and for a line of more than MAX_LINE_BYTES.
    """
    parts: list[bytes] = []  # the beginning of a line
    num_bytes = number = 0
    decoded = _decoded(path, chunks)
    if separator is not None and len(separator) > 1 and b"\n" in separator and b"\r" not in separator:
        decoded = _with_short_line_ends(decoded)
    for chunk in decoded:
        start = chunk
        if separator is not None and len(separator) > 1 and parts:
            start = _take_end(parts, len(separator) - 1) + chunk
        *lines, tail = start.split(separator) if separator else [start]
        if lines:
            whole = [b"".join([*parts, lines[0]])]
            parts, num_bytes, number = [], 0, number + len(lines)
            yield whole.pop()  # no longer held here: it may be large
            yield from lines[1:]
        parts.append(tail)
        num_bytes += len(tail)
        if num_bytes > MAX_LINE_BYTES:
            raise DataError(
                f"{path}: document {number + 1} is longer than {MAX_LINE_BYTES >> 20:,} MiB; cut it into several, each "
                "on a line of its own, or leave the file out"
            )
    if num_bytes:
        whole = [b"".join(parts)]
        parts = []
        yield whole.pop()


def _take_end(parts: list[bytes], length: int) -> bytes:
    """Takes the last bytes from the parts and returns them: a separator may begin there."""
    end = b""
    while parts and len(end) < length:
        end = parts.pop() + end
    cut = max(0, len(end) - length)
    parts.append(end[:cut])
    return end[cut:]


def _with_short_line_ends(chunks: Iterator[bytes]) -> Iterator[bytes]:
    held = b""  # a "\r" at the end of a chunk
    for chunk in chunks:
        joined = held + chunk
        held = joined[-1:] if joined.endswith(b"\r") else b""
        yield joined[: len(joined) - len(held)].replace(b"\r\n", b"\n")
    yield held


def is_cut_off(path: Path) -> bool:
    """Returns whether the file is not compressed and has no newline at its end; compressed frames mark their end."""
    with path.open("rb") as file:
        is_plain = not file.read(len(ZSTD_MAGIC)).startswith((ZSTD_MAGIC, GZIP_MAGIC))
        return is_plain and file.seek(-1, os.SEEK_END) >= 0 and file.read(1) != b"\n"


def read_chunks(path: Path, sha256: str | None = None) -> Iterator[bytes]:
    """Yields the bytes of a file; raises DataError, after the last, when they do not match `sha256`."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            if sha256 is not None:
                digest.update(chunk)
            yield chunk
    if sha256 is not None and digest.hexdigest() != sha256:
        raise DataError(f"{path} does not have its listed sha256; fetch or build the file again")


def _decoded(path: Path, chunks: Iterator[bytes]) -> Iterator[bytes]:
    start = b""
    while len(start) < len(ZSTD_MAGIC) and (chunk := next(chunks, b"")):
        start += chunk
    magic = start[: len(ZSTD_MAGIC)]
    chunks = itertools.chain([start], chunks)
    if magic == ZSTD_MAGIC or path.suffix == ".zst":
        zstd = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW_BYTES)
        return _decompressed(path, chunks, zstd.decompressobj)
    if magic.startswith(GZIP_MAGIC) or path.suffix == ".gz":
        return _decompressed(path, chunks, lambda: zlib.decompressobj(wbits=zlib.MAX_WBITS | 16))
    return chunks


def _decompressed(path: Path, chunks: Iterator[bytes], start_frame: Callable[[], Decompressor]) -> Iterator[bytes]:
    """Yields what any number of concatenated frames (zstd) or members (gzip) decompress to; raises DataError."""
    frame: Decompressor | None = None
    try:
        for chunk in chunks:
            rest = chunk
            while rest:
                frame = frame or start_frame()
                if text := frame.decompress(rest):
                    yield text
                rest = b""
                if frame.eof:
                    rest, frame = frame.unused_data, None
    except (zlib.error, zstandard.ZstdError) as error:
        raise DataError(f"{path} is damaged ({error}); fetch or build the file again") from error
    if frame is not None:
        raise DataError(f"{path} is truncated: its last compressed frame has no end; fetch or build the file again")
