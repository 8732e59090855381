"""The published token files, in the published order, bit for bit.

The files end in .npy but have no header: little-endian uint32, EOS already between documents. Each file is cut into
rows of T tokens (its remainder is dropped), rows are numbered through the files in listed order, and epoch e reads
them in the order that numpy's PCG64(seed + e) shuffles them into. Step s of an epoch is rows [s * B, (s + 1) * B) of
that order; what is left of an epoch after its last whole batch is dropped. Any position is reached at once, in any
epoch.

Source: OLMo's `IterableDataset` and `MemMapDataset`, as the OLMo-2 stage-2 and RePo runs used them.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from data.config import DataConfig, DataKind
from data.errors import DataError
from data.fetch.background import Background
from data.fetch.download import download, is_present
from data.fetch.files import DataFile, digest_files
from data.fetch.quota import GIB
from data.fetch.roots import Root, locate_tokenizer, open_root
from data.filters import is_repetitive
from data.rows import Rows
from data.tokenizer import DocumentEncoder
from data.tokens.published import kept_order

TOKEN_DTYPE = np.dtype("<u4")
NPY_HEADER_MAGIC = b"\x93NUMPY"
MAX_TOKEN_ID = (1 << 24) - 1  # where no tokenizer says: above any vocabulary, below any four characters of text
POSITION = "rows"  # the one stream: every rank reports the same position in the published order


@dataclass
class TokenRows:
    """All whole rows of a list of token files, by number; opens files as they are read, remote ones once fetched."""

    files: list[DataFile]
    row_length: int

    def __post_init__(self) -> None:
        rows_per_file = [file.num_bytes // (TOKEN_DTYPE.itemsize * self.row_length) for file in self.files]
        self._ends = np.cumsum(rows_per_file, dtype=np.int64)
        self._firsts = self._ends - rows_per_file
        self._maps: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return int(self._ends[-1])

    def locate(self, rows: np.ndarray) -> np.ndarray:
        """The indices of the files that the rows of these numbers lie in."""
        return np.searchsorted(self._ends, rows, side="right")

    def read(self, rows: np.ndarray) -> np.ndarray:
        """Tokens of the rows of these numbers: uint32 `[R, row_length]`."""
        tokens = np.empty((len(rows), self.row_length), TOKEN_DTYPE)
        files = self.locate(rows)
        starts = (rows - self._firsts[files]) * self.row_length
        for index, (file, start) in enumerate(zip(files.tolist(), starts.tolist(), strict=True)):
            if file not in self._maps:
                self._maps[file] = _open_tokens(self.files[file])
            tokens[index] = self._maps[file][start : start + self.row_length]
        return tokens

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_maps": {}}  # a pickled map would be a copy of the file


class TokenBackend:
    """Rows of the published files; one slot per row of the batch."""

    kind = DataKind.tokens.value
    num_streams = 1

    def __init__(self, config: DataConfig, sequence_length: int, global_batch_size: int) -> None:
        """Checks that all listed files are there; raises DataError for what is missing or no token file."""
        root = open_root(config.root, config.cache_dir)
        files = list_token_files(root, Path(str(config.file_list)).expanduser())
        _check_room(files, config.max_cache_gib)
        tokenizer = locate_tokenizer(config.tokenizer, root) if config.tokenizer else None
        encoder = DocumentEncoder(tokenizer, config.eos_token) if tokenizer else None
        self.rows = TokenRows(files, sequence_length)
        if len(self.rows) < global_batch_size:
            raise DataError(
                f"data.file_list: the files hold {len(self.rows)} rows of {sequence_length} tokens, not one batch of "
                f"{global_batch_size}; list more files or lower the batch size"
            )
        names = name_sources([file.name for file in files])
        self.source_names = tuple(dict.fromkeys(names))
        self.source_of_file = np.array([self.source_names.index(name) for name in names], np.int16)
        self.max_token_id = encoder.max_token_id if encoder else None
        self.eos_token_id = _choose_eos(config, encoder)
        self._order_folder = root.cache
        self._background = Background()
        self.num_slots = global_batch_size
        self.seed = config.seed
        self.rule = config.repetition_filter
        self.fingerprint = {
            "data.kind": self.kind,
            "data.file_list": f"{len(files)} files {digest_files(files, contents=False)}",
            "data.tokenizer": encoder.sha256[:12] if encoder else "none",
            "data.eos_token_id": str(self.eos_token_id),
            "data.seed": str(config.seed),
            "data.repetition_filter": str(self.rule),
            "sequence_length": str(sequence_length),
        }

    def start(self, slots: range) -> dict[str, Any]:
        """The first row of the first epoch."""
        return {POSITION: [0, 0]}

    def restore(self, positions: Mapping[str, Any], source_names: Sequence[str]) -> dict[str, Any]:
        """As they are: a position beyond the end of an epoch is the beginning of the next."""
        return dict(positions)

    def read(self, slots: range, positions: Mapping[str, Any]) -> Iterator[Rows]:
        """The rows of these slots; the position is (epoch, rows of it read)."""
        epoch, start = positions[POSITION]
        while True:
            order = kept_order(self._order_folder, len(self.rows), self.seed, epoch)
            self._fetch_ahead(order[start:])
            while start + self.num_slots <= len(order):
                numbers = order[start + slots.start : start + slots.stop]
                start += self.num_slots
                yield self._read(numbers, [epoch, start])
            epoch, start = epoch + 1, 0

    def _fetch_ahead(self, order: np.ndarray) -> None:
        """Begin to fetch what is missing, in the order in which rows first need it."""
        if all(is_present(file) for file in self.rows.files):
            return
        wanted, first = np.unique(self.rows.locate(order), return_index=True)
        for index in wanted[np.argsort(first)]:
            self._background.submit(partial(download, self.rows.files[index], wait=False))

    def _read(self, numbers: np.ndarray, position: list[int]) -> Rows:
        tokens = self.rows.read(numbers)
        self._check_ids(tokens, numbers)
        loss_mask = np.array([not is_repetitive(row, self.rule) for row in tokens], bool)
        return Rows(tokens, loss_mask, self.source_of_file[self.rows.locate(numbers)], {POSITION: position})

    def _check_ids(self, tokens: np.ndarray, numbers: np.ndarray) -> None:
        # A download that was answered with an error page has the right name, and sometimes the right size.
        largest = MAX_TOKEN_ID if self.max_token_id is None else self.max_token_id
        if tokens.max() > largest:
            row = int(tokens.max(axis=1).argmax())
            file = self.rows.files[self.rows.locate(numbers)[row]]
            remedy = "delete it, and the next start fetches it again" if file.origin else "fetch it again"
            raise DataError(f"{file.path} holds token id {tokens.max()}, and {largest} is the largest; {remedy}")


def _choose_eos(config: DataConfig, encoder: DocumentEncoder | None) -> int:
    if config.eos_token_id is not None:
        return config.eos_token_id
    assert encoder is not None, "DataConfig.validate wants one of the two"
    return encoder.eos_token_id


def read_file_list(file_list: Path) -> list[str]:
    """The paths that a text file lists, one a line; DataError for a list that is not there or empty."""
    if not file_list.is_file():
        raise DataError(f"data.file_list: there is no file {file_list}; give the text file that lists the .npy paths")
    try:
        names = [line.strip() for line in file_list.read_text().splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise DataError(
            f"data.file_list: {file_list} is no text; give the text file that lists the .npy paths"
        ) from error
    if not names:
        raise DataError(f"data.file_list: {file_list} is empty; list the .npy paths below data.root, one a line")
    return names


def list_token_files(root: Root, file_list: Path) -> list[DataFile]:
    """The listed files in order; DataError for a faulty list, and for a file that is missing or no token file."""
    files = root.named(read_file_list(file_list), "data.file_list")
    for file in files:
        check_token_file(file)
    return files


def check_token_file(file: DataFile) -> None:
    """DataError for a size that is no whole number of tokens, and for a header, if the file is here."""
    if file.num_bytes % TOKEN_DTYPE.itemsize:
        raise DataError(
            f"{file.path} is torn: its {file.num_bytes:,} bytes are no whole number of uint32 tokens; fetch it again"
        )
    if not is_present(file):
        return
    with file.path.open("rb") as content:
        if content.read(len(NPY_HEADER_MAGIC)) == NPY_HEADER_MAGIC:
            raise DataError(
                f"{file.path} has a numpy header; token files are raw little-endian uint32 (write them with "
                "ndarray.tofile)"
            )


def _open_tokens(file: DataFile) -> np.ndarray:
    if not is_present(file):
        download(file)
        check_token_file(file)
    return np.memmap(file.path, TOKEN_DTYPE, mode="r")


def _check_room(files: Sequence[DataFile], max_cache_gib: float | None) -> None:
    needed = sum(file.num_bytes for file in files if file.origin) / GIB
    if max_cache_gib is not None and needed > max_cache_gib:
        raise DataError(
            f"data.max_cache_gib = {max_cache_gib:g} cannot hold the {needed:.1f} GiB of token files, and their order "
            "needs all of them at any time; raise it, or list fewer files"
        )


def name_sources(names: list[str]) -> list[str]:
    """A source name per file: the first folder below the folders that all files share, or the last of those."""
    folders = [PurePosixPath(name).parts[:-1] for name in names]
    depth = 0
    while folders and all(len(parts) > depth and parts[depth] == folders[0][depth] for parts in folders):
        depth += 1
    return [parts[depth] if len(parts) > depth else (parts[-1] if parts else "tokens") for parts in folders]
