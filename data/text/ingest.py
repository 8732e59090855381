"""Reads each file once: records in, a cache file of document frames out (frames.py).

Decoding and parsing run at some 100 MB/s, with every record counted. From then on any document takes a millisecond to
read, which makes shuffling and resuming cheap.
"""

import hashlib
import logging
import random
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from common.files import remove_partials, write_whole
from data.errors import DataError
from data.fetch.download import download, download_all, explained_disk_errors, is_present, missing_bytes
from data.fetch.files import DataFile
from data.fetch.locks import file_lock
from data.fetch.quota import CacheFullError, CacheQuota
from data.text.form import form_of
from data.text.frames import FrameFile, FrameWriter
from data.text.records import read_records

logger = logging.getLogger(__name__)

CACHE_FULL_SECONDS = 300.0  # how long to wait for other processes that fill the cache with unfinished files
LARGE_BYTES = 200_000_000  # of a file whose beginning is worth a line, besides its end
STEPS_PER_FILE = 8  # pieces, as parts of the file, in which more is reserved for frames larger than the file


@dataclass(frozen=True)
class FrameCache:
    """The folder of cache files; any number of processes and ranks may share it."""

    folder: Path
    """Where cache files lie."""
    frame_bytes: int
    """Text per frame, in bytes."""
    max_bad_share: float
    """Share of bad records above which a file is refused."""
    quota: CacheQuota | None = None
    """The bound on the folder that holds all of the cache; None: no bound."""
    _opened: dict[str, FrameFile] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        remove_partials(self.folder / "*")

    def open(self, files: Sequence[DataFile], source: str = "") -> list[FrameFile]:
        """Returns the frames of these files; fetches and ingests what is missing, shared with other processes.

        Raises DataError for a truncated or damaged file, and for one with too many bad records.
        """
        self._mark_in_use(files, source)
        while missing := [file for file in files if file.name not in self._opened or not self.path_of(file).exists()]:
            for wait in (False, True):  # first what no other process works on, then wait for the rest
                for file in missing:
                    self._ingest(file, wait=wait)
            with suppress(FileNotFoundError):  # another process has evicted it: once more
                self._opened.update((file.name, self._checked(file)) for file in missing)
        return [self._opened[file.name] for file in files]

    def known(self, files: Sequence[DataFile], at_most: int) -> dict[str, FrameFile]:
        """Returns the frames, by name of the file, of so many files that are ingested already."""
        found: dict[str, FrameFile] = {}
        for file in files:
            with suppress(FileNotFoundError):
                found[file.name] = self._opened.get(file.name) or FrameFile(self.path_of(file))
            if len(found) == at_most:
                break
        return found

    def prepare(self, files: Sequence[DataFile], source: str) -> None:
        """Fetches and ingests these files ahead of need, except those that another process works on."""
        self._mark_in_use(files, source)
        for file in files:
            self._ingest(file, wait=False, ahead=True)

    def fetch(self, files_by_source: Mapping[str, Sequence[DataFile]]) -> None:
        """Fetches, several at a time, the files that are not on disk, ingested, or fetched by another process."""
        missing: list[DataFile] = []
        for source, files in files_by_source.items():
            self._mark_in_use(files, source)
            missing += [file for file in files if file.origin and not self.path_of(file).exists()]
        with suppress(CacheFullError):  # then one by one, as they are ingested
            self._reserve(sum(map(missing_bytes, missing)))
            download_all(missing, partial(download, wait=False))

    def path_of(self, file: DataFile) -> Path:
        """Returns where the frames of a file lie: another path for other content, by size, hash and time."""
        identity = f"{file.name}\t{file.num_bytes}\t{file.version}\t{self.frame_bytes}"
        if form := form_of(file).identity:
            identity += f"\t{form}"
        return self.folder / f"{Path(file.name).name}-{hashlib.sha256(identity.encode()).hexdigest()[:16]}.frames"

    def _mark_in_use(self, files: Sequence[DataFile], source: str) -> None:
        with explained_disk_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        if self.quota:
            self.quota.mark_in_use(source, [path for file in files for path in (file.path, self.path_of(file))])

    def _reserve(self, num_bytes: int, *, ahead: bool = False) -> None:
        if self.quota:
            self.quota.reserve(num_bytes, ahead=ahead)

    def _ingest(self, file: DataFile, *, wait: bool, ahead: bool = False) -> None:
        """Makes the frames of a file; without `wait`, gives up when other processes work on it or fill the cache."""
        started = time.monotonic()
        while not self.path_of(file).exists():
            try:
                if not self._try_to_ingest(file, wait=wait, ahead=ahead):
                    return
            except CacheFullError:  # no lock is held meanwhile, so that a process with more of its file can finish
                if not wait:
                    return
                if time.monotonic() - started > CACHE_FULL_SECONDS:
                    raise
                time.sleep(random.SystemRandom().uniform(0.05, 0.5))

    def _try_to_ingest(self, file: DataFile, *, wait: bool, ahead: bool) -> bool:
        """Returns whether to try again, in case the frames are still missing."""
        target = self.path_of(file)
        reserve = partial(self._reserve, ahead=ahead)
        with (
            explained_disk_errors(self.folder),
            file_lock(target.with_name(f".{target.name}.lock"), wait=wait) as held,
        ):
            if target.exists():
                return True
            if not held or (file.origin and not download(file, wait=wait, reserve=reserve)):
                return False
            try:
                self._write_frames(file, target, reserve)
            except (FileNotFoundError, DataError):
                if file.origin is None or is_present(file):
                    raise
                return True  # another process has evicted what was fetched
            if file.origin and self.quota and self.quota.max_gib is not None:
                file.path.unlink(missing_ok=True)
            return True

    def _write_frames(self, file: DataFile, target: Path, reserve: Callable[[int], None]) -> None:
        started = time.monotonic()
        granted = file.num_bytes  # an estimate: frames of compressed and of plain files take about the file's size
        reserve(granted)
        step = file.num_bytes // STEPS_PER_FILE
        with write_whole(target, durable=True) as output:
            if file.num_bytes >= LARGE_BYTES:
                logger.info("ingesting %s: %.1f GB", file.name, file.num_bytes / 1e9)
            writer = FrameWriter(output, self.frame_bytes)
            for record in read_records(file, writer.counts):
                writer.add(record.text)
                del record  # it may be large
                if writer.num_bytes > granted:
                    reserve(step)
                    granted = writer.num_bytes + step
            writer.finish()
        seconds = time.monotonic() - started
        logger.info("ingested %s: %d documents in %.1f s", file.name, writer.counts.documents, seconds)

    def _checked(self, file: DataFile) -> FrameFile:
        frames = FrameFile(self.path_of(file))
        counts = frames.counts
        if counts.bad_share > self.max_bad_share:
            raise DataError(
                f"{file.path}: {counts.describe_bad()} are unreadable, more than data.max_bad_share = "
                f"{self.max_bad_share:g} allows; {counts.remedy(form_of(file).key)}"
            )
        if counts.num_bad:
            logger.warning("%s: skipped %s", file.name, counts.describe_bad())
        if not counts.documents:
            logger.warning("%s holds no documents", file.name)
        return frames
