"""The published token files, in the published order, bit for bit.

The files end in .npy but have no header: little-endian uint32, EOS already between documents. Each file is cut into
rows of T tokens (its remainder is dropped), rows are numbered through the files in listed order, and epoch e reads
them in the order that numpy's PCG64(seed + e) shuffles them into. Step s of an epoch is rows [s * B, (s + 1) * B) of
that order; what is left of an epoch after its last whole batch is dropped. Any position is reached at once, in any
epoch.

Source: OLMo's `IterableDataset` and `MemMapDataset`, as the OLMo-2 stage-2 and RePo runs used them.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from data.config import DataConfig, DataKind
from data.errors import DataError
from data.files import DataFile, digest_files, open_root
from data.filters import is_repetitive
from data.rows import Rows
from data.tokenizer import DocumentEncoder

TOKEN_DTYPE = np.dtype("<u4")
NPY_HEADER_MAGIC = b"\x93NUMPY"
POSITION = "rows"  # the one stream: every rank reports the same position in the published order


def published_order(num_rows: int, seed: int, epoch: int) -> np.ndarray:
    """The order of rows in an epoch: uint32 `[num_rows]`."""
    order = np.arange(num_rows, dtype=np.uint32)
    np.random.Generator(np.random.PCG64(seed + epoch)).shuffle(order)
    return order


@dataclass
class TokenRows:
    """All whole rows of a list of token files, by number; opens files as they are read."""

    files: list[DataFile]
    row_length: int

    def __post_init__(self) -> None:
        rows_per_file = [file.num_bytes // (TOKEN_DTYPE.itemsize * self.row_length) for file in self.files]
        self._ends = np.cumsum(rows_per_file, dtype=np.int64)
        self._maps: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return int(self._ends[-1])

    def locate(self, row: int) -> int:
        """The index of the file that row number `row` lies in."""
        return int(np.searchsorted(self._ends, row, side="right"))

    def read(self, row: int) -> np.ndarray:
        """Tokens of row number `row`: uint32 `[row_length]`."""
        file = self.locate(row)
        if file not in self._maps:
            self._maps[file] = np.memmap(self.files[file].path, TOKEN_DTYPE, mode="r")
        start = (row - int(self._ends[file - 1] if file else 0)) * self.row_length
        return self._maps[file][start : start + self.row_length]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_maps": {}}  # a pickled map would be a copy of the file


class TokenBackend:
    """Rows of the published files; one slot per row of the batch."""

    kind = DataKind.tokens.value
    num_streams = 1

    def __init__(self, config: DataConfig, sequence_length: int, global_batch_size: int) -> None:
        """Checks that all listed files are there; raises DataError for what is missing or no token file."""
        root = open_root(config.root)
        files = _list_files(root, Path(str(config.file_list)).expanduser())
        encoder = DocumentEncoder(root / config.tokenizer, config.eos_token) if config.tokenizer else None
        self.rows = TokenRows(files, sequence_length)
        if len(self.rows) < global_batch_size:
            raise DataError(
                f"data.file_list: the files hold {len(self.rows)} rows of {sequence_length} tokens, not one batch of "
                f"{global_batch_size}; list more files or lower the batch size"
            )
        names = _name_sources([file.name for file in files])
        self.source_names = tuple(dict.fromkeys(names))
        self.source_of_file = [self.source_names.index(name) for name in names]
        self.max_token_id = encoder.max_token_id if encoder else None
        self.eos_token_id = _choose_eos(config, encoder)
        self.num_slots = global_batch_size
        self.seed = config.seed
        self.rule = config.repetition_filter
        self.fingerprint = {
            "data.kind": self.kind,
            "data.file_list": f"{len(files)} files {digest_files(files)}",
            "data.seed": str(config.seed),
            "data.repetition_filter": str(self.rule),
            "sequence_length": str(sequence_length),
        }

    def start(self, slots: range) -> dict[str, Any]:
        """The first row of the first epoch."""
        return {POSITION: [0, 0]}

    def read(self, slots: range, positions: Mapping[str, Any]) -> Iterator[Rows]:
        """The rows of these slots; the position is (epoch, rows of it read)."""
        epoch, start = positions[POSITION]
        while True:
            order = published_order(len(self.rows), self.seed, epoch)
            while start + self.num_slots <= len(order):
                numbers = order[start + slots.start : start + slots.stop]
                start += self.num_slots
                yield self._read(numbers.tolist(), [epoch, start])
            epoch, start = epoch + 1, 0

    def _read(self, numbers: list[int], position: list[int]) -> Rows:
        tokens = np.empty((len(numbers), self.rows.row_length), np.uint32)
        for index, number in enumerate(numbers):
            tokens[index] = self.rows.read(number)
            self._check_ids(tokens[index], number)
        loss_mask = np.array([not is_repetitive(row, self.rule) for row in tokens], bool)
        sources = np.array([self.source_of_file[self.rows.locate(number)] for number in numbers], np.int16)
        return Rows(tokens, loss_mask, sources, {POSITION: position})

    def _check_ids(self, row: np.ndarray, number: int) -> None:
        # A download that was answered with an error page has the right name, and sometimes the right size.
        if self.max_token_id is not None and row.max() > self.max_token_id:
            path = self.rows.files[self.rows.locate(number)].path
            raise DataError(
                f"{path} holds token id {row.max()}, and {self.max_token_id} is the largest; fetch it again"
            )


def _choose_eos(config: DataConfig, encoder: DocumentEncoder | None) -> int:
    if config.eos_token_id is not None:
        return config.eos_token_id
    assert encoder is not None, "DataConfig.validate wants one of the two"
    return encoder.eos_token_id


def _list_files(root: Path, file_list: Path) -> list[DataFile]:
    if not file_list.is_file():
        raise DataError(f"data.file_list: there is no file {file_list}; give the text file that lists the .npy paths")
    names = [line.strip() for line in file_list.read_text().splitlines() if line.strip()]
    if not names:
        raise DataError(f"data.file_list: {file_list} is empty; list the .npy paths below data.root, one a line")
    missing = [name for name in names if not (root / name).is_file()]
    if missing:
        raise DataError(
            f"{len(missing)} of {len(names)} token files are missing below {root}, the first is {missing[0]}; "
            "fetch them or correct data.root"
        )
    return [_open_file(root, name) for name in names]


def _open_file(root: Path, name: str) -> DataFile:
    path = root / name
    num_bytes = path.stat().st_size
    with path.open("rb") as file:
        if file.read(len(NPY_HEADER_MAGIC)) == NPY_HEADER_MAGIC:
            raise DataError(
                f"{path} has a numpy header; token files are raw little-endian uint32 (write them with ndarray.tofile)"
            )
    if num_bytes % TOKEN_DTYPE.itemsize:
        raise DataError(f"{path} is torn: its {num_bytes:,} bytes are no whole number of uint32 tokens; fetch it again")
    return DataFile(name, path, num_bytes)


def _name_sources(names: list[str]) -> list[str]:
    """A source name per file: the first folder below the folders that all files share."""
    folders = [PurePosixPath(name).parts[:-1] for name in names]
    depth = 0
    while all(len(parts) > depth and parts[depth] == folders[0][depth] for parts in folders):
        depth += 1
    return [parts[depth] if len(parts) > depth else "tokens" for parts in folders]
