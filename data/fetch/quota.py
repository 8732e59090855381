"""Bounded disk use: before something is written to the cache, what no stream needs any more makes room for it.

Sources say which files they are at. Nothing is evicted as long as all fits, so a mix that fits is fetched once, for all
epochs. Evicting is always safe: what turns out to be needed after all is fetched and ingested again.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from stat import S_ISREG

from data.errors import DataError
from data.fetch.locks import is_own

GIB = 1 << 30


class CrowdedError(DataError):
    """There is no room, but only because of what others are writing."""


@dataclass
class Room:
    """A cache folder of at most `max_gib` (None: any size), counted before each piece that is written.

    What several processes have made room for at the same time, and not written yet, none of them knows of the others.
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
        of each source are sure to stay. Raises DataError when that is not enough; CrowdedError, when it would be
        without the files that others are writing just now.
        """
        if self.max_gib is None:
            return
        sets = 3 if ahead else 2
        needed = {path for known in list(self._needed.values()) for paths in known[-sets:] for path in paths}
        total, others, evictable = num_bytes, 0, []
        for path in self.folder.rglob("*"):
            try:
                stat = path.stat()
            except FileNotFoundError:  # others make room as well
                continue
            if not S_ISREG(stat.st_mode):
                continue
            total += stat.st_size
            if path.name.startswith("."):
                others += 0 if is_own(path) else stat.st_size
            elif path not in needed and path.suffix != ".json":
                evictable.append((stat.st_mtime_ns, stat.st_size, path))
        bound = int(self.max_gib * GIB)
        for _, size, path in sorted(evictable):
            if total <= bound:
                return
            path.unlink(missing_ok=True)
            total -= size
        if total > bound:
            crowded = total - others <= bound
            needed_bytes = total if crowded else total - others
            raise (CrowdedError if crowded else DataError)(
                f"data.max_cache_gib = {self.max_gib:g} cannot hold what the order needs at once in {self.folder}, "
                f"{needed_bytes / GIB:.3g} GiB; raise it or lower data.files_per_group"
            )
