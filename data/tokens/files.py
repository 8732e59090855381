"""Token files: lists of them, and their rows by number.

The published files end in .npy but have no header: little-endian uint32, EOS already between documents; layout.py has
the other kinds. Each file is cut into rows of T tokens (its remainder is dropped), and rows are numbered through the
files in listed order.

Source: OLMo's `MemMapDataset`, as the OLMo-2 stage-2 and RePo runs used it.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import compress
from operator import add
from pathlib import Path, PurePosixPath
from typing import IO, Any

import numpy as np

from data.config import TokenDtype
from data.errors import DataError
from data.fetch.download import download, is_present
from data.fetch.files import DataFile
from data.fetch.ranges import Part, RangeReader
from data.fetch.roots import Root
from data.tokens.layout import HEADER_MAGIC, TokenLayout, header_error, layout_of

TOKEN_DTYPE = np.dtype("<u4")
MAX_OPEN_FILES = 128  # of a process, which may have 1,024 by default
MAX_TOKEN_ID = (1 << 24) - 1  # without a tokenizer: above any vocabulary, below any four characters of text


@dataclass
class TokenRows:
    """All whole rows of a list of token files, by number; files are opened, and fetched, as they are read.

    With `ranges`, rows of files that are not on the disk are fetched instead of the files. Rows are read, not mapped: a
    file that is truncated under its map ends the process by SIGBUS, without a word.
    """

    files: list[DataFile]
    """In listed order."""
    row_length: int
    """Tokens of a row."""
    token_dtypes: Sequence[TokenDtype] = ()
    """How the files without a header store ids, by file; empty: as published."""
    ranges: RangeReader | None = None
    """Reads rows of these files by byte range; None: files are fetched whole."""

    def __post_init__(self) -> None:
        dtypes = self.token_dtypes or [TokenDtype.uint32] * len(self.files)
        self._layouts = [layout_of(file, dtype) for file, dtype in zip(self.files, dtypes, strict=True)]
        rows_per_file = [layout.num_tokens // self.row_length for layout in self._layouts]
        self.rows_per_file = np.array(rows_per_file, np.int64)
        self._ends = np.cumsum(rows_per_file, dtype=np.int64)
        self._firsts = self._ends - rows_per_file
        self._opened: dict[int, IO[bytes]] = {}
        self._unchecked: set[int] | None = None
        self._checked: set[int] = set()

    def __len__(self) -> int:
        return int(self._ends[-1])

    def locate(self, rows: np.ndarray) -> np.ndarray:
        """Returns the indices of the files that the rows of these numbers are in."""
        return np.searchsorted(self._ends, rows, side="right")

    def read(self, rows: np.ndarray) -> np.ndarray:
        """Returns the tokens of the rows of these numbers: uint32 `[R, row_length]`; raises DataError."""
        tokens = np.empty((len(rows), self.row_length), TOKEN_DTYPE)
        parts = self._parts(rows)
        by_range = self._are_read_by_range(parts)
        for row, part, in_parts in zip(tokens, parts, by_range, strict=True):
            if not in_parts:
                stored = np.empty(self.row_length, self._layouts[part.file].dtype)
                _read_into(stored, self._open(part.file), part.start, self.files[part.file])
                row[:] = stored
        if self.ranges is not None and any(by_range):
            contents = self._read_ranges(self.ranges, list(compress(parts, by_range)))
            for row, part, content in zip(compress(tokens, by_range), compress(parts, by_range), contents, strict=True):
                row[:] = np.frombuffer(content, self._layouts[part.file].dtype)
        return tokens

    def expect(self, rows: np.ndarray) -> None:
        """Begins to fetch the rows of these numbers that are not on the disk, in this order; returns at once."""
        if self.ranges is not None:
            parts = self._parts(rows)
            parts = list(compress(parts, self._are_read_by_range(parts)))
            self.ranges.expect([*self._beginnings(parts), *parts])

    def close(self) -> None:
        """Returns once rows that were read by byte range are kept; ends the threads, and closes files."""
        if self.ranges is not None:
            self.ranges.close()
        while self._opened:
            self._opened.popitem()[1].close()

    @property
    def num_tokens(self) -> list[int]:
        """Tokens of each file, with those after its last whole row."""
        return [layout.num_tokens for layout in self._layouts]

    def _read_ranges(self, ranges: RangeReader, parts: list[Part]) -> list[bytes | bytearray | memoryview]:
        """Returns the bytes of parts of remote files; raises DataError, too, for a file that has a numpy header.

        The first call does not wait for the beginnings of its files: they would be hundreds of requests more. The
        second one looks at them before it returns anything, and each later one at those of files that are new.
        """
        beginnings = [] if self._unchecked is None else self._beginnings(parts)
        contents = ranges.read([*parts, *beginnings])
        for beginning, content in zip(beginnings, contents[len(parts) :], strict=True):
            if content == HEADER_MAGIC:
                file = self.files[beginning.file]
                raise header_error(f"{file.origin.root}: {file.name}" if file.origin else str(file.path))
        self._checked.update(beginning.file for beginning in beginnings)
        self._unchecked = {*(self._unchecked or ()), *(part.file for part in parts)} - self._checked
        return contents[: len(parts)]

    def _beginnings(self, parts: Sequence[Part]) -> list[Part]:
        """Returns the first bytes of the files of these parts, and of those read before, that are not checked yet."""
        files = {*(self._unchecked or ()), *(part.file for part in parts)} - self._checked
        return [Part(file, 0, min(len(HEADER_MAGIC), self.files[file].num_bytes)) for file in sorted(files)]

    def _parts(self, rows: np.ndarray) -> list[Part]:
        files = self.locate(rows).tolist()
        layouts = [self._layouts[file] for file in files]
        numbers = (rows - self._firsts[files]).tolist()
        sizes = [self.row_length * layout.dtype.itemsize for layout in layouts]
        starts = [layout.start + row * size for layout, row, size in zip(layouts, numbers, sizes, strict=True)]
        return [Part(*place) for place in zip(files, starts, map(add, starts, sizes), strict=True)]

    def _are_read_by_range(self, parts: Sequence[Part]) -> list[bool]:
        if self.ranges is None:
            return [False] * len(parts)
        files = {part.file for part in parts} - self._opened.keys()
        absent = {file for file in files if not is_present(self.files[file])}
        return [part.file in absent for part in parts]

    def _open(self, file: int) -> IO[bytes]:
        if file not in self._opened:
            if len(self._opened) >= MAX_OPEN_FILES:
                self._opened.pop(next(iter(self._opened))).close()  # the one that was opened first
            self._opened[file] = _open_tokens(self.files[file], self._layouts[file])
        return self._opened[file]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": {}}


def read_file_list(file_list: Path, key: str = "data.file_list") -> list[str]:
    """Returns the paths that a text file lists, one a line, without parts that are ".": a file has one name.

    Raises DataError, naming `key`, for a list that is not there, not text, or empty, and for a path with "..".
    """
    if not file_list.is_file():
        raise DataError(f"{key}: there is no file {file_list}; give the text file that lists the .npy paths")
    try:
        names = [str(PurePosixPath(line.strip())) for line in file_list.read_text().splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise DataError(f"{key}: {file_list} is no text; give the text file that lists the .npy paths") from error
    if not names:
        raise DataError(f"{key}: {file_list} is empty; list the .npy paths below data.root, one a line")
    outside = next((name for name in names if ".." in PurePosixPath(name).parts), None)
    if outside:
        raise DataError(f'{key}: {file_list} lists {outside}; list paths below data.root, without ".."')
    return names


def list_token_files(
    root: Root, file_list: Path, key: str = "data.file_list", token_dtype: TokenDtype = TokenDtype.uint32
) -> list[DataFile]:
    """Returns the listed files in order.

    Raises DataError, naming `key`, for a faulty list, and for a file that is missing or no token file.
    """
    files = root.named(read_file_list(file_list, key), key)
    for file in files:
        layout_of(file, token_dtype)
    return files


def check_token_ids(tokens: np.ndarray, file: DataFile, largest: int) -> None:
    """Raises DataError, naming the file, for ids above the largest, such as those of an error page in its place."""
    if tokens.size and tokens.max() > largest:
        remedy = "delete it, and the next start fetches it again" if file.origin else "fetch it again"
        if tokens.max() > np.iinfo(np.uint16).max:  # two ids of two bytes, or no ids
            remedy = f"if its ids have two bytes, set token_dtype to uint16, else {remedy}"
        raise DataError(f"{file.path} holds token id {tokens.max()}, and {largest} is the largest; {remedy}")


def name_sources(names: list[str]) -> list[str]:
    """Returns a source name per file: the first folder below the folders that all files share, or the last of those."""
    folders = [PurePosixPath(name).parts[:-1] for name in names]
    depth = 0
    while folders and all(len(parts) > depth and parts[depth] == folders[0][depth] for parts in folders):
        depth += 1
    return [parts[depth] if len(parts) > depth else (parts[-1] if parts else "tokens") for parts in folders]


def _open_tokens(file: DataFile, layout: TokenLayout) -> IO[bytes]:
    if not is_present(file):
        download(file)
    if file.origin is not None:  # no header was expected
        layout_of(file, TokenDtype(layout.dtype.name))
    return file.path.open("rb", buffering=0)


def _read_into(row: np.ndarray, content: IO[bytes], start: int, file: DataFile) -> None:
    """Fills the row from this byte on, at no shared offset: forked processes have the same open file."""
    rest = row.data.cast("B")
    while rest:
        try:
            count = os.preadv(content.fileno(), [rest], start)
        except OSError as error:
            raise DataError(f"{file.path} cannot be read ({error.strerror}); repair what it lies on") from error
        if not count:
            size = os.fstat(content.fileno()).st_size
            remedy = "the next start fetches it again" if file.origin else "put it back as it was"
            raise DataError(f"{file.path} is truncated to {size:,} of {file.num_bytes:,} bytes; {remedy}")
        rest, start = rest[count:], start + count
