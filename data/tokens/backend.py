"""The published token files, in the published order, bit for bit.

Rows are numbered through the files in listed order (files.py), and epoch e reads them in the order that numpy's
PCG64(seed + e) shuffles them into (published.py). Step s of an epoch is rows [s * B, (s + 1) * B) of that order; what
is left of an epoch after its last whole batch is dropped. Any cursor is reached at once, in any epoch.

Source: OLMo's `IterableDataset`, as the OLMo-2 stage-2 and RePo runs used it.
"""

import logging
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from data.config import DataConfig, DataKind, Fetch, TokenDtype
from data.errors import DataError
from data.fetch.background import Background
from data.fetch.connections import MAX_CONNECTIONS
from data.fetch.download import download, is_present
from data.fetch.files import DataFile, digest_files
from data.fetch.quota import GIB, CopyQuota
from data.fetch.ranges import RangeReader
from data.fetch.roots import Root, locate_tokenizer, open_root
from data.filters import is_repetitive
from data.mix import SourceMix
from data.rows import Rows
from data.tokenizer import DocumentEncoder
from data.tokens.files import MAX_TOKEN_ID, TOKEN_DTYPE, TokenRows, check_token_ids, list_token_files, name_sources
from data.tokens.layout import HEADER_MAGIC, header_error
from data.tokens.published import EpochOrder, order_bytes

logger = logging.getLogger(__name__)

NUM_AHEAD = 32  # steps whose rows are fetched ahead: two minutes of eight GPUs
STEPS_AT_ONCE = 4  # whose rows are looked through for neighbours
MIN_STEPS = 16  # that a bounded cache has to hold
NUM_CHECKED = 32  # files that are all looked at before the first step; of a longer list, one of each source is
MIN_CONNECTIONS = 4
ROWS_PER_CONNECTION = 8
STREAM = "rows"  # the name of the one stream: every rank reports the same cursor in the published order


class TokenBackend:
    """Rows of the published files; one slot per row of the batch."""

    kind = DataKind.tokens.value
    num_streams = 1

    def __init__(self, config: DataConfig, sequence_length: int, global_batch_size: int) -> None:
        """Checks that all listed files exist; raises DataError for one that is missing or no token file."""
        root = open_root(config.root, config.cache_dir)
        files, names, token_dtypes = self._find(config, root)
        tokenizer = locate_tokenizer(config.tokenizer, root) if config.tokenizer else None
        encoder = DocumentEncoder(tokenizer, config.eos_token) if tokenizer else None
        num_bytes = global_batch_size * sequence_length * TOKEN_DTYPE.itemsize
        by_row = config.fetch is Fetch.rows
        self.rows = TokenRows(files, sequence_length, token_dtypes)
        needed = MIN_STEPS * num_bytes, order_bytes(len(self.rows))
        self.rows.ranges = open_ranges(root, files, config.max_cache_gib, needed, names) if by_row else None
        if self.rows.ranges is None:
            _check_quota(files, config.max_cache_gib)
        self.num_ahead = steps_ahead(config.max_cache_gib, num_bytes)
        """Steps whose rows are fetched ahead."""
        self.source_names = tuple(dict.fromkeys(names))
        self.source_of_file = np.array([self.source_names.index(name) for name in names], np.int16)
        self.max_token_id = encoder.max_token_id if encoder else None
        self.eos_token_id = choose_eos(config, encoder)
        self._order_folder = root.cache
        self._background = Background()
        self.num_slots = global_batch_size
        self.seed = config.seed
        self.rule = config.repetition_filter
        self.fingerprint = {
            "data.kind": self.kind,
            **self._describe_files(config, files),
            "data.tokenizer": encoder.sha256[:12] if encoder else "none",
            "data.eos_token_id": str(self.eos_token_id),
            "data.seed": str(config.seed),
            "data.repetition_filter": str(self.rule),
            "sequence_length": str(sequence_length),
        }

    def start(self, slots: range) -> dict[str, Any]:
        """Returns the cursor of the first row of the first epoch."""
        return {STREAM: [0, 0]}

    def restore(self, cursors: Mapping[str, Any], source_names: Sequence[str]) -> dict[str, Any]:
        """Returns the cursors as they are: one beyond the end of an epoch is the beginning of the next."""
        return dict(cursors)

    def epochs(self, cursors: Mapping[str, Any]) -> list[int]:
        """Returns the epoch, from 0, of each source: that of all."""
        return [cursors[STREAM][0]] * len(self.source_names)

    def mix(self) -> list[SourceMix]:
        """Returns what there is of each source."""
        tokens = np.bincount(self.source_of_file, self.rows.num_tokens)
        return [
            SourceMix(name, float(share), float(num_tokens), True)
            for name, share, num_tokens in zip(self.source_names, tokens / tokens.sum(), tokens, strict=True)
        ]

    def read(self, slots: range, cursors: Mapping[str, Any]) -> Iterator[Rows]:
        """Yields the rows of these slots; the cursor is (epoch, rows of it read). Raises DataError."""
        epoch, start = cursors[STREAM]
        while True:
            order = EpochOrder(self._order_folder, len(self.rows), self.seed, epoch, self._background.submit)
            self._fetch_ahead(order, start)
            for numbers, tokens in self._tokens_of(_steps(order, start, self.num_slots, slots), len(slots)):
                start += self.num_slots
                order.make_rest()
                yield self._as_rows(numbers, tokens, [epoch, start])
            epoch, start = epoch + 1, 0

    def _find(self, config: DataConfig, root: Root) -> tuple[list[DataFile], list[str], list[TokenDtype]]:
        """Returns the files in order, and for each its source and how it stores ids; raises DataError."""
        files = list_token_files(root, Path(str(config.file_list)).expanduser(), token_dtype=config.token_dtype)
        return files, name_sources([file.name for file in files]), [config.token_dtype] * len(files)

    def _describe_files(self, config: DataConfig, files: Sequence[DataFile]) -> dict[str, str]:
        """Returns the part of the fingerprint that is about the files and their order; raises DataError for too few."""
        if len(self.rows) < self.num_slots:
            raise DataError(
                f"data.file_list: the files hold {len(self.rows)} rows of {self.rows.row_length} tokens, not one batch "
                f"of {self.num_slots}; list more files or lower the batch size"
            )
        values = {"data.file_list": f"{len(files)} files {digest_files(files, contents=False)}"}
        if config.token_dtype is not TokenDtype.uint32:
            values["data.token_dtype"] = config.token_dtype.value
        return values

    def _tokens_of(self, steps: Iterator[np.ndarray], rows_per_step: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yields the rows of each step and their tokens; where rows are fetched one by one, later ones are meanwhile.

        Nothing is fetched ahead before the first step has been taken: it would take from that step's connections, and
        dozens of threads from the one that makes a batch of it.
        """
        ranges = self.rows.ranges
        if ranges is None:
            for numbers in steps:
                yield numbers, self.rows.read(numbers)
            return
        ranges.num_connections = connections_for(rows_per_step)
        at_once = min(STEPS_AT_ONCE, self.num_ahead)
        coming = deque(islice(steps, 1))
        try:
            while coming:
                numbers = coming.popleft()
                yield numbers, self.rows.read(numbers)
                if len(coming) < max(1, self.num_ahead - at_once) and (more := list(islice(steps, at_once))):
                    self.rows.expect(np.concatenate(more))
                    coming.extend(more)
        finally:
            ranges.close()

    def _fetch_ahead(self, order: EpochOrder, start: int) -> None:
        """Starts to fetch missing files, in the order in which rows first need them, if not their rows alone."""
        if self.rows.ranges is not None or all(is_present(file) for file in self.rows.files):
            return
        wanted, first = np.unique(self.rows.locate(order.whole()[start:]), return_index=True)
        for index in wanted[np.argsort(first)]:
            self._background.submit(partial(download, self.rows.files[index], wait=False))

    def _as_rows(self, numbers: np.ndarray, tokens: np.ndarray, cursor: list[int] | dict[str, Any]) -> Rows:
        self._check_ids(tokens, numbers)
        loss_mask = np.array([not is_repetitive(row, self.rule) for row in tokens], bool)
        return Rows(tokens, loss_mask, self.source_of_file[self.rows.locate(numbers)], {STREAM: cursor})

    def _check_ids(self, tokens: np.ndarray, numbers: np.ndarray) -> None:
        largest = MAX_TOKEN_ID if self.max_token_id is None else self.max_token_id
        if tokens.max() > largest:
            row = int(tokens.max(axis=1).argmax())
            check_token_ids(tokens[row], self.rows.files[self.rows.locate(numbers)[row]], largest)


def choose_eos(config: DataConfig, encoder: DocumentEncoder | None) -> int:
    """Returns the id that ends documents in token files: the configured one, or the tokenizer's."""
    if config.eos_token_id is not None:
        return config.eos_token_id
    assert encoder is not None, "DataConfig.validate asks for one of the two"
    return encoder.eos_token_id


def open_ranges(
    root: Root,
    files: Sequence[DataFile],
    max_cache_gib: float | None = None,
    needed: tuple[int, int] = (0, 0),
    names: Sequence[str] = (),
) -> RangeReader | None:
    """Returns what reads rows of remote files one by one; None: files are on the disk, or have to be fetched whole.

    Raises DataError when the place cannot be reached, when files have a numpy header, and when the bound on the cache
    cannot hold what is `needed`: bytes of rows, and of their order. Of a long list, one file of each of the `names` of
    sources is looked at; TokenRows looks at the others.
    """
    if root.remote is None or all(is_present(file) for file in files):
        return None
    quota = CopyQuota(files, root.cache, max_cache_gib)
    if quota.max_bytes is not None:
        num_needed = needed[0] + quota.num_fixed(needed[1])
        if num_needed > quota.max_bytes:
            raise DataError(
                f"data.max_cache_gib = {max_cache_gib:g} cannot hold {MIN_STEPS} steps, digests of all rows, their "
                f"order and what else lies in {root.cache}, {num_needed / GIB:.3g} GiB; raise it, or use a fresh "
                "data.cache_dir"
            )
    ranges = RangeReader(files, quota)
    reason = ranges.whole_files_reason()
    if reason is not None:
        logger.info("data.fetch=whole is used: %s", reason)
        return None
    checked = _some_of(files, names or [""] * len(files))
    for index, beginning in zip(checked, ranges.read_beginnings(checked), strict=True):
        if beginning.startswith(HEADER_MAGIC):
            raise header_error(f"{root.address}: {files[index].name}")
    return ranges


def _some_of(files: Sequence[DataFile], names: Sequence[str]) -> list[int]:
    """Returns the indices of all missing files, or of many: the first one of each source."""
    missing = [index for index, file in enumerate(files) if file.num_bytes and not is_present(file)]
    if len(missing) <= NUM_CHECKED:
        return missing
    return sorted({names[index]: index for index in reversed(missing)}.values())


def steps_ahead(max_cache_gib: float | None, step_bytes: int) -> int:
    """Returns how many steps are fetched ahead: NUM_AHEAD, or what takes an eighth of the cache."""
    if max_cache_gib is None:
        return NUM_AHEAD
    return max(1, min(NUM_AHEAD, int(max_cache_gib * GIB) // (8 * step_bytes)))


def connections_for(num_rows: int) -> int:
    """Returns how many connections a process has that reads this many rows of each step."""
    return max(MIN_CONNECTIONS, min(MAX_CONNECTIONS, num_rows // ROWS_PER_CONNECTION))


def _steps(order: EpochOrder, start: int, num_slots: int, slots: range) -> Iterator[np.ndarray]:
    """Yields the rows of these slots in each whole step of the order."""
    for first in range(start, len(order) - num_slots + 1, num_slots):
        yield order.rows(first, first + num_slots)[slots.start : slots.stop]


def _check_quota(files: Sequence[DataFile], max_cache_gib: float | None) -> None:
    needed = sum(file.num_bytes for file in files if file.origin) / GIB
    if max_cache_gib is not None and needed > max_cache_gib:
        raise DataError(
            f"data.max_cache_gib = {max_cache_gib:g} cannot hold the {needed:.1f} GiB of token files, and their order "
            "needs all of them at any time; raise it, or list fewer files"
        )
