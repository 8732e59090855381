"""Parts of remote files, read through local copies and fetched ahead of need: many at a time, neighbours as one.

A process says which parts it will need, in order. Threads fetch what is missing of them, each over a connection of its
own, into the copies (sparse.py), which all processes of a machine share. Parts that lie close are one request: what
lies between them is kept, and is needed later. Of files without a copy, the parts that are read first go to the disk
once they have been read: making two files for each copy would hold them up. Threads are started where they are first
needed, so a forked process has its own.
"""

import contextlib
import logging
import os
import queue
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any, NamedTuple

from data.errors import DataError
from data.fetch.answer import Piece
from data.fetch.background import Later, run_all
from data.fetch.connections import MAX_CONNECTIONS
from data.fetch.download import explained_disk_errors, is_present
from data.fetch.files import DataFile
from data.fetch.fill import WholeFilesError, ask, ask_strictly, bring, neighbours
from data.fetch.quota import CopyQuota
from data.fetch.retry import retried
from data.fetch.sparse import BLOCK_BYTES, SparseCopy

logger = logging.getLogger(__name__)

MAX_GAP = 4  # blocks between two parts that are one request: 64 KiB, less than what a request costs
MAX_RUN = 64  # blocks of a request: 1 MiB


class Part(NamedTuple):
    """Bytes of a file that are read together."""

    file: int
    """Index of the file."""
    start: int
    """First byte."""
    stop: int
    """The byte after the last."""

    @property
    def blocks(self) -> range:
        """The blocks that it lies in."""
        return range(self.start // BLOCK_BYTES, -(-self.stop // BLOCK_BYTES))


class Run(NamedTuple):
    """Blocks of a file that are fetched together."""

    file: int
    blocks: range


class Fetched(NamedTuple):
    """A run that has been fetched, or was there already."""

    run: Run
    content: bytes | bytearray


Coming = Future[Fetched | None]  # None: it failed


class RangeReader:
    """Reads parts of remote files; one per process, whose copies in other processes start without threads."""

    def __init__(self, files: Sequence[DataFile], quota: CopyQuota, num_connections: int = MAX_CONNECTIONS) -> None:
        self.files = files
        self.num_connections = num_connections
        self.num_fetched = 0
        """Bytes that this process has fetched."""
        self._quota = quota
        self._copies = [SparseCopy(file) for file in files]
        self._begin()

    def _begin(self) -> None:
        self._process = os.getpid()
        self._num_threads = 0
        self._runs: queue.SimpleQueue[tuple[Run, Coming] | None] = queue.SimpleQueue()
        self._coming: dict[tuple[int, int], Coming] = {}
        self._lock = threading.Lock()
        self._ready: set[int] = set()
        self._failing: set[int] = set()
        self._later = Later()

    def _begin_if_forked(self) -> None:
        if self._process != os.getpid():
            self._quota.begin_in_fork()
            self._begin()

    def whole_files_reason(self) -> str | None:
        """Returns why parts cannot be read from this place; None: they can. Asks for a block of the first file.

        Raises DataError when the place cannot be reached.
        """
        missing = (index for index, file in enumerate(self.files) if file.num_bytes and not is_present(file))
        index = next(missing, None)
        if index is None:
            return None
        try:
            with explained_disk_errors(self.files[index].path.parent):
                self._copy(index)
                bring(self._copies[index], range(1), ask_strictly)
        except WholeFilesError as error:
            return str(error)
        return None

    def read_beginnings(self, indices: Sequence[int]) -> list[bytes]:
        """Returns the first block of each of these files, many at a time, and keeps it. Raises DataError."""
        self._begin_if_forked()
        return run_all(lambda index: bytes(self._bring(Run(index, range(1)))), indices, self.num_connections)

    def expect(self, parts: Iterable[Part]) -> None:
        """Begins to fetch what is missing of these parts, in the order in which they are needed; returns at once."""
        self._begin_if_forked()
        self._later.begin()
        self._begin_to_fetch(parts)

    def _begin_to_fetch(self, parts: Iterable[Part]) -> None:
        while self._num_threads < self.num_connections:
            threading.Thread(target=self._work, args=(self._runs,), daemon=True, name="rows ahead").start()
            self._num_threads += 1
        for run in merge(parts):
            with self._lock:
                new = [block for block in run.blocks if (run.file, block) not in self._coming]
                for blocks in neighbours(new):
                    future: Coming = Future()
                    self._coming.update(((run.file, block), future) for block in blocks)
                    self._runs.put((Run(run.file, blocks), future))

    def read(self, parts: Sequence[Part]) -> list[bytes | bytearray | memoryview]:
        """Returns the bytes of each part; waits for those that are not there yet. Raises DataError."""
        self._begin_if_forked()
        found = [self._read_kept(part) for part in parts]
        missing = [index for index, content in enumerate(found) if content is None]
        if missing:
            self._begin_to_fetch(parts[index] for index in missing)
        coming = {index: self._coming_for(parts[index]) for index in missing}
        for index in missing:
            part = parts[index]
            content = _arrived(part, coming.pop(index)) or self._read_kept(part)
            if content is None:  # fetched and emptied again, or not fetched: once more, here
                self._later.finish()
                content = _cut(part, part.blocks, self._bring(Run(part.file, part.blocks)))
            found[index] = content
        if missing:
            self._later.begin()
        return [content for content in found if content is not None]

    def close(self) -> None:
        """Ends the threads, each after what it is doing; nothing that was expected is fetched any more."""
        if self._process != os.getpid():
            return
        with contextlib.suppress(queue.Empty):
            while True:
                self._runs.get_nowait()
        for _ in range(self._num_threads):
            self._runs.put(None)
        self._later.finish()
        self._begin()

    def _read_kept(self, part: Part) -> memoryview | None:
        content, present = self._copies[part.file].read(part.blocks)
        return _cut(part, part.blocks, content) if all(present) else None

    def _coming_for(self, part: Part) -> set[Coming]:
        """Returns what is being fetched of this part."""
        with self._lock:
            found = {self._coming.get((part.file, block)) for block in part.blocks}
        return {future for future in found if future is not None}

    def _work(self, runs: "queue.SimpleQueue[tuple[Run, Coming] | None]") -> None:
        while (work := runs.get()) is not None:
            run, future = work
            fetched = None
            try:
                fetched = self._fetch(run, future)
            except Exception as error:  # who needs the part tries once more, and raises
                known = isinstance(error, DataError | OSError)
                logger.log(logging.DEBUG if known else logging.WARNING, "ahead of need: %s", error, exc_info=not known)
                self._forget(run, future)
            future.set_result(fetched)
            del work, future, fetched  # who waits for it has the bytes

    def _fetch(self, run: Run, future: Coming) -> Fetched:
        """Returns a run, which is kept by then; of a file without a copy, it is once the first parts have been read."""
        later = self._later  # `close` puts another one in its place
        if not (later.is_waiting and self._has_no_copy(run.file)):
            fetched = Fetched(run, self._bring(run))
            self._forget(run, future)
            return fetched
        copy = self._copies[run.file]
        content = self._ask(copy, *copy.extent(run.blocks)).content
        keep = partial(self._keep, run, content, future)
        if not later.add(keep):
            keep()
        return Fetched(run, content)

    def _has_no_copy(self, index: int) -> bool:
        """Returns whether none of the file is on the disk, and what is known of it tells its versions apart."""
        file, copy = self.files[index], self._copies[index]
        assert file.origin is not None
        is_known = file.etag is not None or file.origin.is_pinned
        return is_known and index not in self._ready and not (copy.digests.exists() or is_present(file))

    def _keep(self, run: Run, content: bytes, future: Coming) -> None:
        """Keeps a run that has been fetched; raises DataError and OSError."""
        file = self.files[run.file]
        try:
            if not is_present(file):
                with explained_disk_errors(file.path.parent), self._quota.growing(len(content)):
                    self._copy(run.file)
                    self._copies[run.file].write(run.blocks.start, content)
            with self._lock:
                self.num_fetched += len(content)
        finally:
            self._forget(run, future)

    def _forget(self, run: Run, future: Coming) -> None:
        """Removes a run from what is coming: from now on it is read from the copy."""
        with self._lock:
            for block in run.blocks:
                if self._coming.get((run.file, block)) is future:
                    del self._coming[run.file, block]

    def _bring(self, run: Run) -> bytearray:
        """Returns the bytes of a run from the whole file, the copy, or the remote. Raises DataError."""
        file = self.files[run.file]
        if is_present(file):
            return _read_whole(file, run.blocks)
        with explained_disk_errors(file.path.parent):
            self._copy(run.file)
            with self._quota.growing(len(run.blocks) * BLOCK_BYTES):
                content, num_fetched = bring(self._copies[run.file], run.blocks, self._ask)
        with self._lock:
            self.num_fetched += num_fetched
        return content

    def _copy(self, index: int) -> None:
        if index not in self._ready:
            self._copies[index].create()
            self._ready.add(index)

    def _ask(self, copy: SparseCopy, start: int, stop: int) -> Piece:
        """Returns a range, tried again for a minute; of many that fail at a time, one says so."""
        me = threading.get_ident()

        def warn(message: str) -> None:
            with self._lock:
                is_first = not self._failing - {me}
                self._failing.add(me)
            logger.log(logging.WARNING if is_first else logging.DEBUG, "%s", message)

        try:
            return retried(partial(ask, copy, start, stop), warn=warn)
        except WholeFilesError as error:  # it gave marks at the start
            raise DataError(f"{error}; set data.fetch=whole") from error
        finally:
            with self._lock:
                self._failing.discard(me)

    def __getstate__(self) -> dict[str, Any]:
        names = ("files", "num_connections", "num_fetched", "_quota", "_copies")
        return {name: self.__dict__[name] for name in names}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._begin()


def merge(parts: Iterable[Part]) -> Iterator[Run]:
    """Yields runs of blocks that hold all parts, in the order of need: parts of a file that lie close are one run."""
    runs: list[tuple[int, Run]] = []
    last: Run | None = None
    for file, first, stop, need in sorted(
        (part.file, part.blocks.start, part.blocks.stop, need) for need, part in enumerate(parts)
    ):
        joins = last is not None and file == last.file and first <= last.blocks.stop + MAX_GAP
        if last is not None and joins and max(stop, last.blocks.stop) - last.blocks.start <= MAX_RUN:
            last = Run(file, range(last.blocks.start, max(stop, last.blocks.stop)))
            runs[-1] = min(runs[-1][0], need), last
        else:
            last = Run(file, range(first, stop))
            runs.append((need, last))
    yield from (run for _, run in sorted(runs, key=lambda item: item[0]))


def _arrived(part: Part, coming: Iterable[Coming]) -> memoryview | None:
    """Waits until work on this part has ended, well or not; returns its bytes if all were fetched at a time."""
    content = None
    for future in coming:
        fetched = future.result()
        if fetched is not None and set(part.blocks) <= set(fetched.run.blocks):
            content = _cut(part, fetched.run.blocks, fetched.content)
    return content


def _cut(part: Part, blocks: range, content: bytes | bytearray) -> memoryview:
    """Returns the bytes of a part from those of these blocks."""
    offset = part.start - blocks.start * BLOCK_BYTES
    return memoryview(content)[offset : offset + part.stop - part.start]


def _read_whole(file: DataFile, blocks: range) -> bytearray:
    start, stop = SparseCopy(file).extent(blocks)
    with file.path.open("rb") as content:
        content.seek(start)
        return bytearray(content.read(stop - start))
