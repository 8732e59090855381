"""The bound on the cache folder: files that no stream needs any more are deleted before new ones are written.

Each source says which files it is reading. Nothing is evicted as long as everything fits, so a mix that fits is fetched
once for all epochs. Evicting is always safe: a file that is needed again is fetched and ingested again.
"""

import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from stat import S_ISREG
from typing import Any

from common.files import is_own_partial
from data.errors import DataError
from data.fetch.files import LISTING_NAME, DataFile
from data.fetch.sparse import SparseCopy, allocated

GIB = 1 << 30
ORDER_PREFIX = "order-"  # of the files that hold the order of rows
PAGE_BYTES = 4096  # in which a disk gives out space


class CacheFullError(DataError):
    """The cache is full, but only because of files that other processes are writing at the moment."""


@dataclass
class CacheQuota:
    """A cache folder of at most `max_gib` GiB (None: any size), measured before each piece that is written.

    Processes do not know what others have reserved and not written yet; see `DataConfig.max_cache_gib`.
    """

    folder: Path
    max_gib: float | None
    _in_use: dict[str, tuple[frozenset[Path], ...]] = field(default_factory=dict)

    def mark_in_use(self, source: str, paths: Iterable[Path]) -> None:
        """Records that a stream of this source reads these files; other streams may still read the two sets before."""
        paths = frozenset(paths)
        earlier = [known for known in self._in_use.get(source, ()) if known != paths]
        self._in_use[source] = (*earlier[-2:], paths)

    def reserve(self, num_bytes: int, *, ahead: bool = False) -> None:
        """Deletes files, least recently written first, until `num_bytes` more fit.

        For work done `ahead` of need, all files that a stream may still read are kept; otherwise only the latest two
        sets of each source. Raises DataError when that is not enough, and CacheFullError when it would be enough
        without the files that others are writing.
        """
        if self.max_gib is None:
            return
        sets = 3 if ahead else 2
        in_use = {path for known in list(self._in_use.values()) for paths in known[-sets:] for path in paths}
        total, others, evictable = num_bytes, 0, []
        for path in self.folder.rglob("*"):
            try:
                stat = path.stat()
            except FileNotFoundError:  # other processes evict as well
                continue
            if not S_ISREG(stat.st_mode):
                continue
            total += stat.st_size
            if path.name.startswith("."):
                others += 0 if is_own_partial(path) else stat.st_size
            elif path not in in_use and path.suffix != ".json":
                evictable.append((stat.st_mtime_ns, stat.st_size, path))
        bound = int(self.max_gib * GIB)
        for _, size, path in sorted(evictable):
            if total <= bound:
                return
            path.unlink(missing_ok=True)
            total -= size
        if total > bound:
            full_for_now = total - others <= bound
            num_needed = total if full_for_now else total - others
            raise (CacheFullError if full_for_now else DataError)(
                f"data.max_cache_gib = {self.max_gib:g} cannot hold what the order needs at once in {self.folder}, "
                f"{num_needed / GIB:.3g} GiB; raise it or lower data.files_per_group"
            )


@dataclass
class CopyQuota:
    """A cache folder of at most `max_gib` GiB (None: any size), in which local copies of files grow.

    Which rows are still needed only the order knows, and it spreads them evenly over all files. So whole copies are
    emptied, the largest first, until an eighth of the bound is free; of what has been fetched ahead, as large a share
    is lost and fetched again. Each process measures before each further 256th of the bound that it writes.
    """

    files: Sequence[DataFile]
    folder: Path
    max_gib: float | None
    _written: int = 0
    _growing: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def max_bytes(self) -> int | None:
        """The bound in bytes."""
        return None if self.max_gib is None else int(self.max_gib * GIB)

    @contextmanager
    def growing(self, num_bytes: int) -> Iterator[None]:
        """Empties copies if need be before one of them grows by this much in the block. Raises OSError."""
        if self.max_bytes is None:
            yield
            return
        with self._lock:
            self._growing += num_bytes
            self._written += num_bytes
            if self._written >= self.max_bytes // 256:
                self._written = 0
                self._shrink(self.max_bytes)
        try:
            yield
        finally:
            with self._lock:
                self._growing -= num_bytes

    def begin_in_fork(self) -> None:
        """Drops what the threads of the process that this one was forked from hold and write: they are not here."""
        self._growing, self._lock = 0, threading.Lock()

    def num_others(self) -> int:
        """Returns the bytes in the folder that are not in copies: they are never deleted."""
        return sum(allocated(path) for path in self.folder.rglob("*") if path.is_file() and path.suffix != ".rows")

    def num_fixed(self, order_bytes: int) -> int:
        """Returns the bytes beside copies once all rows have been read: the same before the first row and after any.

        Those are the digests of all blocks, a record of each file without a listed mark, an order of rows of so many
        bytes, and what lies in the folder besides.
        """
        own = sum(_on_disk(SparseCopy(file).digest_bytes) + (0 if file.etag else PAGE_BYTES) for file in self.files)
        paths = [path for path in self.folder.rglob("*") if path.is_file() and not _belongs_to_copies(path)]
        return _on_disk(order_bytes) + own + sum(map(allocated, paths))

    def _shrink(self, bound: int) -> None:
        copies = [SparseCopy(file) for file in self.files]
        sizes = [(copy.num_allocated(), index) for index, copy in enumerate(copies)]
        total = self.num_others() + self._growing + sum(size for size, _ in sizes)
        if total <= bound - bound // 8:
            return
        for size, index in sorted(sizes, reverse=True):
            if total <= bound - bound // 4:
                return
            total -= size if size and copies[index].empty() else 0

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_growing": 0, "_lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.Lock())


def _belongs_to_copies(path: Path) -> bool:
    """Returns whether this is a copy, or what is kept of copies and their order while rows are read."""
    is_record = path.name.startswith(".") and path.suffix == ".json" and path.name != LISTING_NAME
    return is_record or path.suffix in (".rows", ".digests") or path.name.startswith(ORDER_PREFIX)


def _on_disk(num_bytes: int) -> int:
    return -(-num_bytes // PAGE_BYTES) * PAGE_BYTES
