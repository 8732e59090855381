"""Reading each file once: records in, a cache file of document frames out (see data/frames.py).

Decoding and parsing happen here and nowhere else, at some 100 MB/s, with every record counted; from then on any
document is a millisecond away, which is what makes shuffling and resuming cheap.
"""

import hashlib
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from data.download import download, download_all, explained_disk_errors, is_present
from data.errors import DataError
from data.files import DataFile
from data.frames import FrameFile, FrameWriter
from data.locks import atomic_write, file_lock, remove_partials
from data.records import read_records
from data.room import Room

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class FrameCache:
    """The folder of cache files; any number of processes and ranks may share it."""

    folder: Path
    frame_bytes: int
    max_bad_share: float
    room: Room | None = None
    _opened: dict[str, FrameFile] = field(default_factory=dict, repr=False)

    def open(self, files: Sequence[DataFile], source: str = "") -> list[FrameFile]:
        """The frames of these files, fetching and ingesting what is missing; processes that ask at once share the work.

        Raises DataError for a torn or damaged file and for one with too many bad records.
        """
        self._note(files, source)
        missing = [file for file in files if file.name not in self._opened or not self.path_of(file).exists()]
        for wait in (False, True):  # first whatever nobody else is at, then wait for the rest
            for file in missing:
                self._ingest(file, wait=wait)
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
        self._make_room(sum(file.num_bytes for file in missing if not is_present(file)))
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
        target = self.path_of(file)
        if target.exists():
            return
        with (
            explained_disk_errors(self.folder),
            file_lock(target.with_suffix(".lock"), wait=wait) as held,
        ):
            if not held or target.exists():
                return
            make_room = partial(self._make_room, ahead=ahead)
            if file.origin and not download(file, wait=wait, make_room=make_room):
                return
            remove_partials(target)
            make_room(file.num_bytes)
            started = time.monotonic()
            with atomic_write(target) as output:
                writer = FrameWriter(output, self.frame_bytes)
                for record in read_records(file, writer.counts):
                    writer.add(record.text)
                writer.finish()
            if file.origin and self.room and self.room.max_gib is not None:
                file.path.unlink(missing_ok=True)
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
