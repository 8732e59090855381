"""The folder of one run, `runs/NAME/`, and its names: the only place that spells them.

config.yaml      of the last start         checkpoints/   step-NNNNNNN/ and `latest`
metrics.jsonl    a line per logged step   wandb/         offline files, and the run's id
events.jsonl     start, alert, stop ...   hf/            final weights, Hugging Face layout
probes/          positions of fixed texts  report.html    all of it, as one page
stuck/           the stacks of ranks that did not move (train/watchdog.py)
"""

import contextlib
import errno
import fcntl
import logging
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from common.json_lines import JsonLines, read_json_lines
from train.config import RunConfig
from train.errors import StopReason, TrainError

logger = logging.getLogger(__name__)

EXPORTED_STEP = "step"  # file in hf/ that says which step its weights are of


class RunFolder:
    """Paths of a run, and its event log. Creates nothing until something is written."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.config = self.path / "config.yaml"
        # What this launcher composed, for its own workers: no name that another could write while they start.
        self.launch = self.path / f"launch-{socket.gethostname()}-{os.getpid()}.yaml"
        self.metrics = self.path / "metrics.jsonl"
        self.events = self.path / "events.jsonl"
        self.checkpoints = self.path / "checkpoints"
        self.wandb = self.path / "wandb"
        self.hf = self.path / "hf"
        self.stuck = self.path / "stuck"
        self.probes = self.path / "probes"
        self.report = self.path / "report.html"
        self._event_log = JsonLines(self.events)

    @classmethod
    def of(cls, config: RunConfig) -> "RunFolder":
        """Returns the folder that `config` names."""
        return cls(Path(config.run_root) / config.name)

    def probe(self, step: int) -> Path:
        """Returns the file with the positions of the probe texts at a step."""
        return self.probes / f"step-{step:07d}.npz"

    def lock(self) -> IO[str]:
        """Locks the run for this process while the returned file is open; the kernel releases it when the process ends.

        Raises TrainError if another process is in it, or if the folder cannot be written.
        """
        with explained_write_errors(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            file = (self.path / ".lock").open("a+")
        try:
            # A record lock, not flock: processes forked from this one (data workers) do not hold it after its death.
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP):
                logger.warning(
                    "%s is on a file system without locks: see to it that only one launch uses it", self.path
                )
                return file
            file.seek(0)
            holder = file.read().strip()
            file.close()
            raise TrainError(f"{self.path} is in use by {holder}: wait for it, or give this run another name") from None
        with explained_write_errors(self.path):
            os.ftruncate(file.fileno(), 0)
            os.write(file.fileno(), f"process {os.getpid()} on {socket.gethostname()}".encode())
        return file

    def log_event(self, event: str, /, **fields: Any) -> None:
        """Appends one event with the time; for the main rank only."""
        self._event_log.append({"event": event, "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), **fields})

    def exported_step(self) -> int | None:
        """Returns the step whose weights are in hf/, or None if there is no whole export."""
        try:
            return int((self.hf / EXPORTED_STEP).read_text())
        except (OSError, ValueError):
            return None

    def has_finished(self, step: int) -> bool:
        """Returns whether the events say that the run finished after `step`."""
        finished = StopReason.finished.word
        return any(
            event.get("event") == "stop" and event.get("reason") == finished and event.get("step") == step
            for event in read_json_lines(self.events)
        )

    def last_event(self) -> dict[str, Any] | None:
        """Returns the newest event, or None."""
        lines = read_json_lines(self.events)
        return lines[-1] if lines else None


@contextlib.contextmanager
def explained_write_errors(folder: Path) -> Iterator[None]:
    """Turns what a full, read-only or missing disk raises into TrainError."""
    try:
        yield
    except OSError as error:
        raise TrainError(
            f"cannot write in {folder} ({error.strerror}): make room there, or set run_root to another folder"
        ) from error
