"""Saving: every rank writes its files into a partial folder, and when all are on the disk the main rank publishes it.

There are two ways, with the same files and the same publication. By default training waits for the disk, about a minute
every few hours. In the background (`checkpoint.background`) it waits until this rank's files are serialised in host
memory; a thread writes them, and a later step publishes them (both measured: benchmarks/results/checkpoint.md). A
failure on one rank, such as a full disk, raises the same SaveError on all, removes the partial folder, and leaves every
published checkpoint unchanged.
"""

import json
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from train.checkpoint.config import CheckpointConfig
from train.checkpoint.generators import generator_file, generator_state
from train.checkpoint.manifest import DigestingFile, FileRecord, without_crc32
from train.checkpoint.store import (
    PARTIAL,
    TRAINER,
    Layout,
    clear_leftovers,
    complete_publication,
    folder_name,
    newest_checkpoint,
    publish,
)
from train.distributed import Ranks
from train.engine.engine import Engine
from train.errors import SaveError, TrainError

FAILURES = (OSError, RuntimeError, MemoryError)  # torch makes a RuntimeError of a write or an allocation that fails
Dump = Callable[[Any], None]  # writes to an open file


class HostBuffer:
    """A file in memory, which a thread writes to the disk later."""

    def __init__(self) -> None:
        self._chunks: list[bytes] = []

    def write(self, data: Any) -> int:
        """Appends a copy of bytes or of a view of bytes."""
        self._chunks.append(bytes(data))
        return len(data)

    def flush(self) -> None:
        """Does nothing: there is nothing to flush. torch.save calls it."""

    def write_to(self, file: Any) -> None:
        """Writes everything to `file`, and frees what is written."""
        for chunk in iter(lambda: self._chunks.pop(0) if self._chunks else None, None):
            file.write(chunk)


class Writer:
    """This rank's files of one checkpoint.

    Errors are kept until `result`: raising one earlier would leave the other ranks waiting in the middle of a save.
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
        """Writes `state`, as it is now, with torch.save."""
        with without_crc32():
            self._add(lambda file: torch.save(state, file), path)

    def add_json(self, state: Any, path: Path) -> None:
        """Writes `state`, as it is now, as JSON."""
        self._add(lambda file: file.write(json.dumps(state).encode()), path)

    def add_bytes(self, content: bytes, path: Path) -> None:
        """Writes `content`."""
        self._add(lambda file: file.write(content), path)

    def result(self) -> tuple[dict[str, FileRecord], str | None]:
        """Waits until everything is on the disk; returns all files by name, and what went wrong or None."""
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
            self._pending.append(self._pool.submit(self._write, buffer.write_to, path))

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
        reason = "not enough host memory" if isinstance(cause, MemoryError) else cause
        self._problem = f"{path.name}: {getattr(cause, 'strerror', None) or reason}"


@dataclass(frozen=True)
class Pending:
    """A save that is being written."""

    step: int
    partial: Path
    layout: Layout
    writer: Writer
    good_before: int | None


class Saver:
    """Checkpoints of one run, one at a time. Every method is collective."""

    def __init__(self, root: Path, config: CheckpointConfig, layout: Layout, ranks: Ranks) -> None:
        self._root = root
        self._config = config
        self._layout = layout
        self._ranks = ranks
        self._pending: Pending | None = None

    def begin(
        self,
        step: int,
        engine: Engine,
        state: dict[str, Any],
        *,
        records: Mapping[str, bytes] = MappingProxyType({}),
        good_before: int | None = None,
    ) -> None:
        """Writes the present state into a partial folder; `finish` publishes it. No other save may be pending.

        `records`: further files of the main rank, by name. `good_before`: as in `drop_old`, which deletes old
        checkpoints after the publication.
        """
        assert self._pending is None
        partial = self._root / f"{PARTIAL}{folder_name(step)}"
        self._on_main(step, lambda: self._clear_and_create(partial))
        writer = Writer(self._ranks.rank, self._config.background)
        engine.save(partial, writer.add)
        writer.add(generator_state(), generator_file(partial, self._ranks.rank))
        if self._ranks.is_main:
            writer.add_json(state, partial / TRAINER)
            for name, content in records.items():
                writer.add_bytes(content, partial / name)
        self._pending = Pending(step, partial, self._layout, writer, good_before)

    def finish(self, *, wait: bool) -> Path | None:
        """Publishes what `begin` wrote, and deletes old checkpoints. Returns the published folder.

        Returns None if nothing is pending, or if some rank is still writing and `wait` is False. Raises SaveError.
        """
        pending, ranks = self._pending, self._ranks
        if pending is None or (not wait and ranks.sum([not pending.writer.is_done])[0]):
            return None
        self._pending = None
        results = ranks.gather(pending.writer.result())
        problems = [f"rank {rank}, {problem}" for rank, (_, problem) in enumerate(results) if problem is not None]
        if problems:
            self._on_main(pending.step, lambda: shutil.rmtree(pending.partial, ignore_errors=True))
            raise self._error(pending.step, problems[0])
        files = {name: record for records, _ in results for name, record in records.items()}
        return self._on_main(pending.step, lambda: self._publish(pending, files))

    def _clear_and_create(self, partial: Path) -> None:
        self._root.mkdir(parents=True, exist_ok=True)
        clear_leftovers(self._root)
        partial.mkdir()

    def _publish(self, pending: Pending, files: dict[str, FileRecord]) -> Path:
        folder = publish(self._root, pending.partial, pending.step, pending.layout, files)
        complete_publication(folder, self._config.keep, self._config.keep_every, pending.good_before)
        return folder

    def _on_main(self, step: int, work: Callable[[], Any]) -> Any:
        try:
            return self._ranks.on_main(work)
        except OSError as error:
            raise self._error(step, str(error)) from error

    def _error(self, step: int, problem: str) -> SaveError:
        return SaveError(
            f"the checkpoint of step {step} could not be written ({problem}); those before it are whole: free disk "
            f"space{self._ranks.on_main(self._space)}, or repair the disk"
        )

    def _space(self) -> str:
        """Returns how much space is free and how much is needed, where that is known."""
        try:
            newest, free = newest_checkpoint(self._root), shutil.disk_usage(self._root).free
        except (OSError, TrainError):
            return ""
        if newest is None:
            return f" ({free / 1e9:.3f} GB are free)"
        size = sum(record.size for record in newest.files.values())
        return f" (the last one has {size / 1e9:.3f} GB, {free / 1e9:.3f} GB are free, {self._config.keep} are kept)"
