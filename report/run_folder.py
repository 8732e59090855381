"""The files of one run folder, `runs/NAME/`: where they are and what is in them. Only this file spells their names.

config.yaml      of the last start         checkpoints/   step-NNNNNNN/ and `latest`
metrics.jsonl    a line per logged step   wandb/         offline files, and the run's id
events.jsonl     start, alert, stop ...   hf/            final weights, Hugging Face layout
probes/          positions of fixed texts  report.html    all of it, as one page
exports/         the same of earlier steps  stuck/         stacks of ranks that did not move
profile/         traces of chosen steps
slurm/           the job's script, its id, a log of each node

Readers accept any state of a folder: a run may be young, killed, or of another version.
"""

import itertools
import re
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import yaml

from common.json_lines import read_json_lines
from report.metrics import STEP

FINISHED = "finished"  # the reason in the stop event of a run that reached its last step
PRUNED = "pruned"  # the event of a trial whose search goes on without it
REPEATED = ("checkpoint", "skip", "alert", "recovery")  # events of a step that come again when it is done again
DAMAGE = "damage"  # the field of an alert of a damaged checkpoint, which does not come again
LARGEST = 1e300  # number that is shown; JSON also has integers that no float can hold
MAX_STEP = 2**53  # JavaScript's largest exact integer

YAML_LOADER: type[Any] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times faster than that in Python

Row = dict[str, Any]


@dataclass(frozen=True)
class Holder:
    """The process that trains a run, or did last."""

    pid: int
    host: str

    @property
    def text(self) -> str:
        """`process PID on HOST`, which is also what the lock file holds."""
        return f"process {self.pid} on {self.host}"

    def is_alive(self) -> bool | None:
        """Returns whether it runs; None if it is on another machine."""
        if self.host != socket.gethostname():
            return None
        try:
            words = psutil.Process(self.pid).cmdline()  # of another process, perhaps: process ids are used again
        except psutil.Error:
            return False
        return ("-m", "train") in itertools.pairwise(words)


class RunFiles:
    """Paths of a run, and readers of its files. Creates nothing."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.config = self.path / "config.yaml"
        self.metrics = self.path / "metrics.jsonl"
        self.events = self.path / "events.jsonl"
        self.lock_file = self.path / ".lock"
        self.checkpoints = self.path / "checkpoints"
        self.wandb = self.path / "wandb"
        self.hf = self.path / "hf"
        self.exports = self.path / "exports"
        self.stuck = self.path / "stuck"
        self.profile = self.path / "profile"
        self.probes = self.path / "probes"
        self.report = self.path / "report.html"
        self.slurm = self.path / "slurm"
        self.slurm_config = self.slurm / "launch.yaml"
        self.job_file = self.slurm / "job"

    def probe(self, step: int) -> Path:
        """Returns the file with the positions of the probe texts at a step."""
        return self.probes / f"step-{step:07d}.npz"

    def read_metrics(self) -> list[Row]:
        """Returns one row per step, in the order of the steps; lines without a step are left out.

        Lines of the same step are one row: a later line adds its keys, and its values count where both have a key.
        """
        by_step: dict[int, Row] = {}
        for row in read_json_lines(self.metrics):
            if (step := step_of_row(row)) is not None:
                by_step.setdefault(step, {}).update(row)
        return [by_step[step] for step in sorted(by_step)]

    def read_events(self) -> list[Row]:
        """Returns the events, the oldest first, without what was said of steps that were then done again.

        events.jsonl is only appended to. A run that continues after step s says so with `resume` (or `start`, where s
        is 0): REPEATED events of later steps before that line are void, as these steps are done again.
        """
        events: list[Row] = []
        for event in read_json_lines(self.events):
            if event.get("event") in ("start", "resume") and (step := step_of_row(event)) is not None:
                events = [earlier for earlier in events if not _is_repeated(earlier, step)]
            events.append(event)
        return events

    def holder(self) -> Holder | None:
        """Returns the process that locked the run last, or None.

        Not to be called by that process itself: to close the file would release its lock.
        """
        try:
            found = re.fullmatch(r"process (\d+) on (\S+)", self.lock_file.read_text().strip())
        except (OSError, UnicodeDecodeError):
            return None
        return Holder(int(found[1]), found[2]) if found else None

    def job_id(self) -> str | None:
        """Returns the id of the SLURM job that was submitted last for this run, or None. It may have ended."""
        try:
            return self.job_file.read_text().strip() or None
        except (OSError, UnicodeDecodeError):
            return None

    def newest_checkpoint(self) -> int | None:
        """Returns the step of the newest checkpoint, or None; whether it is whole is not looked at."""
        steps = [path.name.removeprefix("step-") for path in self.checkpoints.glob("step-*")]
        return max((int(step) for step in steps if step.isdecimal()), default=None)

    def read_config(self) -> dict[str, Any]:
        """Returns config.yaml as plain data; empty if there is none, or if it is no mapping."""
        return _read_yaml(self.config)

    def read_submitted_config(self) -> dict[str, Any]:
        """Returns the config of the job that was submitted last, as `read_config` does."""
        return _read_yaml(self.slurm_config)


def step_of_row(row: Row) -> int | None:
    """Returns the step of a row or an event; None if it has none that can be one."""
    step = row.get(STEP)
    return step if isinstance(step, int) and is_number(step) and 0 <= step < MAX_STEP else None


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        config = yaml.load(path.read_text(), Loader=YAML_LOADER)
    except (OSError, yaml.YAMLError, UnicodeDecodeError):
        return {}
    return config if isinstance(config, dict) else {}


def _is_repeated(event: Row, step: int) -> bool:
    """Returns whether an event is of a step after `step` and is logged again when that step is done again."""
    of = step_of_row(event)
    return event.get("event") in REPEATED and DAMAGE not in event and of is not None and of > step


def is_number(value: Any) -> bool:
    """Returns whether this is a finite number of a size that can still be rounded; True and False are none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and -LARGEST <= value <= LARGEST
