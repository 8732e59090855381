"""Bounded disk use: before something is written to the cache, what no stream needs any more makes room for it.

Sources say which files they are at. Nothing is evicted as long as all fits, so a mix that fits is fetched once, for all
epochs. Evicting is always safe: what turns out to be needed after all is fetched and ingested again.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from data.errors import DataError

GIB = 1 << 30


@dataclass
class Room:
    """A cache folder of at most `max_gib` (None: any size), counted before each file.

    Several processes that write at the same time may each be over by the file they are at.
    """

    folder: Path
    max_gib: float | None
    _needed: dict[str, tuple[frozenset[Path], ...]] = field(default_factory=dict)

    def note(self, source: str, paths: Iterable[Path]) -> None:
        """A stream has come to these files of a source; the two sets before are what others may still be at."""
        paths = frozenset(paths)
        earlier = [known for known in self._needed.get(source, ()) if known != paths]
        self._needed[source] = (*earlier[-2:], paths)

    def make(self, num_bytes: int, *, ahead: bool = False) -> None:
        """Evict, least recently written first, until `num_bytes` more fit.

        For work done `ahead` nothing goes that any stream may still be at; otherwise only the latest two sets of files
        of each source are sure to stay. Raises DataError when that is not enough.
        """
        if self.max_gib is None:
            return
        sets = 3 if ahead else 2
        needed = {path for known in list(self._needed.values()) for paths in known[-sets:] for path in paths}
        entries = []
        for path in self.folder.rglob("*"):
            if path.is_file():
                stat = path.stat()
                entries.append((stat.st_mtime_ns, stat.st_size, path))
        excess = sum(size for _, size, _ in entries) + num_bytes - int(self.max_gib * GIB)
        for _, size, path in sorted(entries):
            if excess <= 0:
                return
            if path not in needed and not path.name.startswith(".") and path.suffix != ".json":
                path.unlink(missing_ok=True)
                excess -= size
        if excess > 0:
            raise DataError(
                f"data.max_cache_gib = {self.max_gib:g} cannot hold what the order needs at once in {self.folder}, "
                f"{excess / GIB:.2f} GiB are missing; raise it or lower data.files_per_group"
            )
