"""Saving: every rank writes its files aside, and when all are on the disk the main rank publishes them.

Two ways, with the same files and the same publication. At once, the default, training waits for the disk: a minute in
some hours. In the background (`checkpoint.background`), it waits until this rank's files are serialised in host memory,
a thread writes them, and a later step publishes them (both measured: benchmarks/results/checkpoint.md). What fails on
one rank, such as a full disk, raises the same SaveError on all, removes what was written aside, and leaves every
published checkpoint as it was.
"""

import json
import shutil
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from train.checkpoint.config import CheckpointConfig
from train.checkpoint.generators import generator_file, generator_state
from train.checkpoint.manifest import DigestingFile, FileRecord, without_crc32
from train.checkpoint.store import (
    ASIDE,
    TRAINER,
    Layout,
    clear_leftovers,
    folder_name,
    newest_checkpoint,
    publish,
    settle,
)
from train.distributed import Ranks
from train.engine import Engine
from train.errors import SaveError, TrainError

FAILURES = (OSError, RuntimeError, MemoryError)  # torch makes a RuntimeError of a write or an allocation that fails
Dump = Callable[[Any], None]  # writes something to an open file


class HostBuffer:
    """A file in memory: what a thread writes to the disk later."""

    def __init__(self) -> None:
        self._chunks: list[bytes] = []

    def write(self, data: Any) -> int:
        """Append a copy of bytes or of a view of bytes."""
        self._chunks.append(bytes(data))
        return len(data)

    def flush(self) -> None:
        """For torch.save; there is nothing to flush."""

    def drain(self, file: Any) -> None:
        """Write everything to `file`, and let go of what is written."""
        for chunk in iter(lambda: self._chunks.pop(0) if self._chunks else None, None):
            file.write(chunk)


class Writer:
    """This rank's files of one checkpoint.

    Errors are kept until `result`: to raise one here would leave the other ranks waiting in the middle of a save.
    """

    def __init__(self, rank: int, background: bool) -> None:
        self._rank = rank
        self._pool = ThreadPoolExecutor(1) if background else None
        self._pending: list[Future[None]] = []
        self._records: dict[str, FileRecord] = {}
        self._problem: str | None = None

    @property
    def is_done(self) -> bool:
        """Whether `result` will not wait."""
        return all(future.done() for future in self._pending)

    def add(self, state: Any, path: Path) -> None:
        """Write what torch.save makes of `state`, as it is now."""
        with without_crc32():
            self._add(lambda file: torch.save(state, file), path)

    def add_json(self, state: Any, path: Path) -> None:
        """The same in JSON."""
        self._add(lambda file: file.write(json.dumps(state).encode()), path)

    def result(self) -> tuple[dict[str, FileRecord], str | None]:
        """All files by name, and what went wrong, once everything is on the disk."""
        if self._pool is not None:
            self._pool.shutdown()
        for future in self._pending:
            future.result()
        return self._records, self._problem

    def _add(self, dump: Dump, path: Path) -> None:
        if self._pool is None:
            self._write(dump, path)
        else:
            buffer = HostBuffer()
            try:
                dump(buffer)
            except FAILURES as error:
                self._fail(path, error)
                return
            self._pending.append(self._pool.submit(self._write, buffer.drain, path))

    def _write(self, dump: Dump, path: Path) -> None:
        if self._problem is not None:
            return
        file = None
        try:
            file = DigestingFile(path)
            dump(file)
            self._records[path.name] = file.seal(self._rank)
        except FAILURES as error:
            if file is not None:
                file.close()
            self._fail(path, (file and file.error) or error)

    def _fail(self, path: Path, cause: Exception) -> None:
        without_words = "not enough host memory" if isinstance(cause, MemoryError) else cause
        self._problem = f"{path.name}: {getattr(cause, 'strerror', None) or without_words}"


@dataclass(frozen=True)
class Pending:
    """A save that is being written."""

    step: int
    aside: Path
    layout: Layout
    writer: Writer


class Saver:
    """Checkpoints of one run, one at a time. Every method is collective."""

    def __init__(self, root: Path, config: CheckpointConfig, layout: Layout, ranks: Ranks) -> None:
        self._root = root
        self._config = config
        self._layout = layout
        self._ranks = ranks
        self._pending: Pending | None = None

    def begin(self, step: int, engine: Engine, state: dict[str, Any]) -> None:
        """Write the state of this moment aside; nothing is published before `finish`, which must come first if another
        save is pending.
        """
        assert self._pending is None
        aside = self._root / f"{ASIDE}{folder_name(step)}"
        self._on_main(step, lambda: self._make_room(aside))
        writer = Writer(self._ranks.rank, self._config.background)
        engine.save(aside, writer.add)
        writer.add(generator_state(), generator_file(aside, self._ranks.rank))
        if self._ranks.is_main:
            writer.add_json(state, aside / TRAINER)
        self._pending = Pending(step, aside, self._layout, writer)

    def finish(self, *, wait: bool) -> Path | None:
        """Publish what `begin` has written, and drop old checkpoints. Returns the published folder.

        None: nothing is pending, or, without `wait`, some rank is not done. Raises SaveError.
        """
        pending, ranks = self._pending, self._ranks
        if pending is None or (not wait and ranks.sum([not pending.writer.is_done])[0]):
            return None
        self._pending = None
        results = ranks.gather(pending.writer.result())
        problems = [f"rank {rank}, {problem}" for rank, (_, problem) in enumerate(results) if problem is not None]
        if problems:
            self._on_main(pending.step, lambda: shutil.rmtree(pending.aside, ignore_errors=True))
            raise self._error(pending.step, problems[0])
        files = {name: record for records, _ in results for name, record in records.items()}
        return self._on_main(pending.step, lambda: self._publish(pending, files))

    def _make_room(self, aside: Path) -> None:
        self._root.mkdir(parents=True, exist_ok=True)
        clear_leftovers(self._root)
        aside.mkdir()

    def _publish(self, pending: Pending, files: dict[str, FileRecord]) -> Path:
        folder = publish(self._root, pending.aside, pending.step, pending.layout, files)
        settle(folder, self._config.keep, self._config.keep_every)
        return folder

    def _on_main(self, step: int, work: Callable[[], Any]) -> Any:
        try:
            return self._ranks.on_main(work)
        except OSError as error:
            raise self._error(step, str(error)) from error

    def _error(self, step: int, problem: str) -> SaveError:
        return SaveError(
            f"the checkpoint of step {step} could not be written ({problem}); those before it are whole: make room"
            f"{self._ranks.on_main(self._room)}, or repair the disk"
        )

    def _room(self) -> str:
        """How much there is and how much is needed, where that is known."""
        try:
            newest, free = newest_checkpoint(self._root), shutil.disk_usage(self._root).free
        except (OSError, TrainError):
            return ""
        if newest is None:
            return f" ({free / 1e9:.3f} GB are free)"
        size = sum(record.size for record in newest.files.values())
        return f" (the last one has {size / 1e9:.3f} GB, {free / 1e9:.3f} GB are free, {self._config.keep} are kept)"
