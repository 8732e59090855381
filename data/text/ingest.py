"""Reading each file once: records in, a cache file of document frames out (see data/frames.py).

Decoding and parsing happen here and nowhere else, at some 100 MB/s, with every record counted; from then on any
document is a millisecond away, which is what makes shuffling and resuming cheap.
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

from data.errors import DataError
from data.fetch.download import download, download_all, explained_disk_errors, is_present, missing_bytes
from data.fetch.files import DataFile
from data.fetch.locks import atomic_write, file_lock, remove_partials
from data.fetch.quota import CrowdedError, Room
from data.text.frames import FrameFile, FrameWriter
from data.text.records import read_records

logger = logging.getLogger(__name__)

CROWDED_SECONDS = 300.0  # to wait for the room that other processes take up with what they are at
STEPS_PER_FILE = 8  # in which room is made for frames that turn out larger than the file


@dataclass(frozen=True)
class FrameCache:
    """The folder of cache files; any number of processes and ranks may share it."""

    folder: Path
    frame_bytes: int
    max_bad_share: float
    room: Room | None = None
    _opened: dict[str, FrameFile] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        remove_partials(self.folder / "*")

    def open(self, files: Sequence[DataFile], source: str = "") -> list[FrameFile]:
        """The frames of these files, fetching and ingesting what is missing; processes that ask at once share the work.

        Raises DataError for a torn or damaged file and for one with too many bad records.
        """
        self._note(files, source)
        while missing := [file for file in files if file.name not in self._opened or not self.path_of(file).exists()]:
            for wait in (False, True):  # first whatever nobody else is at, then wait for the rest
                for file in missing:
                    self._ingest(file, wait=wait)
            with suppress(FileNotFoundError):  # another process has made room with it: once more
                self._opened.update((file.name, self._checked(file)) for file in missing)
        return [self._opened[file.name] for file in files]

    def prepare(self, files: Sequence[DataFile], source: str) -> None:
        """Fetch and ingest these files ahead of their need, except those that another process is at."""
        self._note(files, source)
        for file in files:
            self._ingest(file, wait=False, ahead=True)

    def fetch(self, files_by_source: Mapping[str, Sequence[DataFile]]) -> None:
        """Fetch, several at a time, those of these files that are neither here nor ingested nor being fetched."""
        missing: list[DataFile] = []
        for source, files in files_by_source.items():
            self._note(files, source)
            missing += [file for file in files if file.origin and not self.path_of(file).exists()]
        with suppress(CrowdedError):  # then one by one, as they are ingested
            self._make_room(sum(map(missing_bytes, missing)))
            download_all(missing, partial(download, wait=False))

    def path_of(self, file: DataFile) -> Path:
        """Where the frames of a file lie: another name for other content, as far as size and time tell."""
        identity = f"{file.name}\t{file.num_bytes}\t{file.version}\t{self.frame_bytes}"
        return self.folder / f"{Path(file.name).name}-{hashlib.sha256(identity.encode()).hexdigest()[:16]}.frames"

    def _note(self, files: Sequence[DataFile], source: str) -> None:
        with explained_disk_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        if self.room:
            self.room.note(source, [path for file in files for path in (file.path, self.path_of(file))])

    def _make_room(self, num_bytes: int, *, ahead: bool = False) -> None:
        if self.room:
            self.room.make(num_bytes, ahead=ahead)

    def _ingest(self, file: DataFile, *, wait: bool, ahead: bool = False) -> None:
        """Have the frames of a file; without `wait`, perhaps not, when other processes are in the way."""
        started = time.monotonic()
        while not self.path_of(file).exists():
            try:
                if not self._try_to_ingest(file, wait=wait, ahead=ahead):
                    return
            except CrowdedError:  # nothing is held meanwhile: whoever has more of its file is through first
                if not wait:
                    return
                if time.monotonic() - started > CROWDED_SECONDS:
                    raise
                time.sleep(random.SystemRandom().uniform(0.05, 0.5))

    def _try_to_ingest(self, file: DataFile, *, wait: bool, ahead: bool) -> bool:
        """Whether it is worth another try, should the frames not be there now."""
        target = self.path_of(file)
        make_room = partial(self._make_room, ahead=ahead)
        with (
            explained_disk_errors(self.folder),
            file_lock(target.with_name(f".{target.name}.lock"), wait=wait) as held,
        ):
            if target.exists():
                return True
            if not held or (file.origin and not download(file, wait=wait, make_room=make_room)):
                return False
            try:
                self._write_frames(file, target, make_room)
            except (FileNotFoundError, DataError):
                if file.origin is None or is_present(file):
                    raise
                return True  # another process has made room with what was fetched
            if file.origin and self.room and self.room.max_gib is not None:
                file.path.unlink(missing_ok=True)
            return True

    def _write_frames(self, file: DataFile, target: Path, make_room: Callable[[int], None]) -> None:
        started = time.monotonic()
        granted = file.num_bytes  # a guess: compressed and plain files both take about their size again
        make_room(granted)
        step = file.num_bytes // STEPS_PER_FILE
        with atomic_write(target) as output:
            writer = FrameWriter(output, self.frame_bytes)
            for record in read_records(file, writer.counts):
                writer.add(record.text)
                if writer.num_bytes > granted:
                    make_room(step)
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
                f"{self.max_bad_share:g} allows; repair the file or raise the limit"
            )
        if counts.num_bad:
            logger.warning("%s: skipped %s", file.name, counts.describe_bad())
        if not counts.documents:
            logger.warning("%s holds no documents", file.name)
        return frames
