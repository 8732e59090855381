"""The folder of a run that this process trains: its lock, its logs, and errors of writing explained.

report/run_folder.py names its files and reads them.
"""

import contextlib
import errno
import fcntl
import logging
import os
import socket
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import IO, Any

from common.files import STALE_SECONDS, has_ended, remove_partials
from common.json_lines import JsonLines
from report.run_folder import Holder, RunFiles, step_of_row
from train.config import RunConfig
from train.errors import TrainError

logger = logging.getLogger(__name__)

REMEDIES = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "free disk space there, or "),
    **dict.fromkeys((errno.ENOTDIR, errno.EEXIST), "a part of this path is a file; "),
    **dict.fromkeys((errno.EACCES, errno.EPERM), "make it writable for you, or "),
}
"""Number of an error -> what to do about it besides choosing another folder."""
EXPORTED_STEP = "step"  # file in hf/ that says which step its weights are of


class RunFolder(RunFiles):
    """The files of a run, its lock and its logs. Creates nothing until something is written."""

    def __init__(self, path: str | Path) -> None:
        super().__init__(path)
        # What this launcher composed, for its own workers: no name that another could write while they start.
        self.launch = self.path / f"launch-{socket.gethostname()}-{os.getpid()}.yaml"
        self._event_log = JsonLines(self.events)
        self._metrics_log = JsonLines(self.metrics)
        self._lock: IO[str] | None = None

    @classmethod
    def of(cls, config: RunConfig) -> "RunFolder":
        """Returns the folder that `config` names."""
        return cls(Path(config.run_root) / config.name)

    def lock(self) -> IO[str]:
        """Locks the run for this process while the returned file is open; the kernel releases it when the process ends.

        Raises TrainError if another process is in it, or if the folder cannot be written.
        """
        file = self._locked_file()
        with explained_write_errors(self.path):
            os.ftruncate(file.fileno(), 0)
            os.write(file.fileno(), Holder(os.getpid(), socket.gethostname()).text.encode())
        self._remove_old_launches()
        self._lock = file
        return file

    def keep_locked(self) -> None:
        """Locks the run again if its folder, or its lock file, was deleted since; without a lock it does nothing.

        Raises TrainError if another process has taken the name since then.
        """
        if self._lock is not None and not self._is_lock_file(self._lock):
            self.lock()
            logger.warning("%s was deleted while the run was in it: what is left begins now", self.path)

    def is_in_use(self) -> bool:
        """Returns whether another process has locked the run. Creates nothing; not to be called by one that has."""
        try:
            with self.lock_file.open("r+") as file:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            return True
        except OSError:  # no folder, or a file system without locks
            return False
        return False

    def remove_if_unused(self) -> None:
        """Deletes the folder if no run began in it: all it has is a lock file, if any, which no process has locked."""
        with contextlib.suppress(OSError, TrainError):
            entries = list(self.path.iterdir())
            if not entries:
                self.path.rmdir()
            if entries != [self.lock_file]:
                return
            with self._locked_file():
                self.lock_file.unlink()
                self.path.rmdir()

    def _locked_file(self) -> IO[str]:
        with explained_write_errors(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            file = self.lock_file.open("a+")
        try:
            # A record lock, not flock: processes forked from this one (data workers) do not hold it after its death.
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP):
                logger.warning(
                    "%s is on a file system without locks: make sure that only one launch uses it", self.path
                )
                return file
            file.seek(0)
            holder = file.read().strip()
            file.close()
            raise TrainError(f"{self.path} is in use by {holder}: wait for it, or give this run another name") from None
        if not self._is_lock_file(file):  # it was deleted before this process had it
            file.close()
            return self._locked_file()
        return file

    def _is_lock_file(self, file: IO[str]) -> bool:
        try:
            return os.path.samestat(os.fstat(file.fileno()), self.lock_file.stat())
        except OSError:
            return False

    def _remove_old_launches(self) -> None:
        """Deletes what killed launchers composed. One of another host counts as killed after an hour: files are read at
        once, and this process has the lock.
        """
        remove_partials(self.path / "launch-*.yaml")
        for path in self.path.glob("launch-*.yaml"):
            host, _, process_id = path.stem.removeprefix("launch-").rpartition("-")
            with contextlib.suppress(OSError, ValueError):
                is_here = host == socket.gethostname()
                age = time.time() - path.stat().st_mtime
                if has_ended(int(process_id)) if is_here else age > STALE_SECONDS:
                    path.unlink()

    def log_event(self, event: str, /, **fields: Any) -> None:
        """Appends one event with the time; for the main rank only."""
        self._event_log.append({"event": event, "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), **fields})

    def log_metrics(self, row: dict[str, Any]) -> None:
        """Appends one row of metrics; for the main rank only."""
        self._metrics_log.append(row)

    def durable_records(self, damaged: Collection[Path] = ()) -> dict[str, bytes]:
        """Flushes metrics.jsonl and events.jsonl to the disk; returns the content of those that have any, by name.

        `damaged`: those that have lost lines, which could not be mended yet. For the main rank only.
        """
        logs = {self.metrics: self._metrics_log, self.events: self._event_log}
        contents = {path.name: log.durable_content(is_whole=path not in damaged) for path, log in logs.items()}
        return {name: content for name, content in contents.items() if content}

    def forget_saved_records(self) -> None:
        """Forgets what `durable_records` returned last: a checkpoint that is published holds it."""
        self._metrics_log.forget_saved()
        self._event_log.forget_saved()

    def remember_records(self) -> None:
        """Takes both files for whole: from now on, `damaged_records` compares with what they hold. Raises OSError."""
        self._metrics_log.remember()
        self._event_log.remember()

    def damaged_records(self) -> dict[Path, list[bytes]]:
        """Returns those of both files that have lost lines, with the lines that this process has since appended.

        Since: since the last checkpoint was published, or `remember_records`. Raises OSError. For the main rank only.
        """
        logs = {self.metrics: self._metrics_log, self.events: self._event_log}
        found = {path: log.lost_lines() for path, log in logs.items()}
        return {path: lines for path, lines in found.items() if lines is not None}

    def exported_step(self) -> int | None:
        """Returns the step whose weights are in hf/, or None if there is no whole export."""
        try:
            return int((self.hf / EXPORTED_STEP).read_text())
        except (OSError, ValueError):
            return None

    def has_ended(self, step: int, reason: str) -> bool:
        """Returns whether the events say that the run ended after `step` for this reason, and has not done that step
        again since.
        """
        ended = False
        for event in self.read_events():
            of = step_of_row(event)
            if event.get("event") in ("start", "resume") and of is not None and of < step:
                ended = False
            elif event.get("event") == "stop" and event.get("reason") == reason and of == step:
                ended = True
        return ended

    def last_event(self) -> dict[str, Any] | None:
        """Returns the newest event, or None."""
        events = self.read_events()
        return events[-1] if events else None


@contextlib.contextmanager
def explained_write_errors(folder: Path) -> Iterator[None]:
    """Turns what a full, read-only or missing disk raises into TrainError."""
    try:
        yield
    except OSError as error:
        remedy = f"{REMEDIES.get(error.errno or 0, '')}set run_root to another folder"
        raise TrainError(f"cannot write in {folder} ({error.strerror}): {remedy}") from error
