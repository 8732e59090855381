"""Missing blocks of a local copy, fetched: some of them, or all that are missing to the whole file."""

import os
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from pathlib import Path

from data.errors import DataError
from data.fetch.answer import NoRangesError, Piece
from data.fetch.retry import retried
from data.fetch.sparse import BLOCK_BYTES, SparseCopy

BLOCKS_AT_ONCE = 512  # 8 MiB an answer, where all of a file is wanted

Ask = Callable[[SparseCopy, int, int], Piece]


class WholeFilesError(DataError):
    """A place sends whole files only, or gives no mark by which their versions can be told apart."""


def ask(copy: SparseCopy, start: int, stop: int) -> Piece:
    """Returns a range of a file; raises TransientError and DataError."""
    file = copy.file
    assert file.origin is not None
    piece = file.origin.read_range(file.name, start, stop, file.num_bytes, copy.mark(None))
    copy.mark(piece.etag)
    if piece.etag is None and not file.origin.is_pinned:
        raise WholeFilesError(
            f"{file.origin.root} gives neither ETags nor dates with ranges, which tell versions of a file apart"
        )
    return piece


def ask_strictly(copy: SparseCopy, start: int, stop: int) -> Piece:
    """Returns the same, tried again for a minute; raises WholeFilesError at once for an answer with the whole file."""

    def attempt() -> Piece:
        try:
            return ask(copy, start, stop)
        except NoRangesError as error:
            assert copy.file.origin is not None
            raise WholeFilesError(f"{copy.file.origin.root} sends whole files where a range is asked for") from error

    return retried(attempt)


def bring(copy: SparseCopy, blocks: range, ask: Ask) -> tuple[bytearray, int]:
    """Returns the bytes of these blocks, and how many of them were missing, fetched and kept.

    Raises what `ask` does, ChangedError, and OSError.
    """
    content, present = copy.read(blocks)
    num_fetched = 0
    for run in neighbours([block for block, is_there in zip(blocks, present, strict=True) if not is_there]):
        start, stop = copy.extent(run)
        piece = ask(copy, start, stop)
        copy.write(run.start, piece.content)
        offset = start - blocks.start * BLOCK_BYTES
        content[offset : offset + len(piece.content)] = piece.content
        num_fetched += len(piece.content)
    return content, num_fetched


def fill(copy: SparseCopy, part: Path, report: Callable[[int], None]) -> None:
    """Fetches all blocks that are missing, and returns once all are on the disk; takes over what lies in `part`.

    `report` is called with each number of bytes that is there. Raises as `bring` with `ask_strictly` does.
    """
    copy.create()
    beginning = part.stat().st_size if part.exists() else 0

    def ask_for(copy: SparseCopy, start: int, stop: int) -> Piece:
        if stop <= beginning:
            with part.open("rb") as content:
                content.seek(start)
                return Piece(content.read(stop - start), None)
        return ask_strictly(copy, start, stop)

    for first in range(0, copy.num_blocks, BLOCKS_AT_ONCE):
        content, _ = bring(copy, range(first, min(first + BLOCKS_AT_ONCE, copy.num_blocks)), ask_for)
        report(len(content))
    descriptor = os.open(copy.path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    part.unlink(missing_ok=True)


def neighbours(numbers: Sequence[int]) -> Iterator[range]:
    """Yields ascending numbers as ranges without a gap."""
    for _, group in groupby(enumerate(numbers), key=lambda item: item[1] - item[0]):
        members = [number for _, number in group]
        yield range(members[0], members[-1] + 1)
