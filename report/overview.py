"""A run in one line: how far it is, how well it does, where it runs, and whether it is alive.

Only the ends of its files are read, so that a list of many long runs takes a fraction of a second.
"""

import json
import mmap
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from report.metrics import CE_LOSS, EVAL_LOSS, OPEN_ALERTS, STEP, STEP_SECONDS, TOKENS, TOKENS_PER_SECOND, WINDOW
from report.run_folder import Row, RunFiles, is_number
from report.summary import status

TAIL_BYTES = 1 << 20  # of metrics.jsonl: tens to thousands of rows
KILLED = "killed"
"""State of a run whose process is dead and left no stop event; the others are those of `status`."""
NOT_STARTED = "no step"
"""State of a run without a row of metrics."""
STARTING = "starting"
"""The same while a process holds it."""


@dataclass(frozen=True)
class Overview:
    """What is known of a run; None is what is not known."""

    name: str
    state: str
    """running, inactive, stopped, pruned, finished, KILLED, NOT_STARTED or STARTING."""
    step: int
    max_steps: int | None
    tokens: int | None
    loss: float | None
    """Mean cross entropy of the last rows."""
    eval_loss: float | None
    """The newest."""
    tokens_per_second: float | None
    """Median of the last rows."""
    seconds_left: float | None
    """Of a run that is running, at the speed of the last rows, without evaluations and checkpoints."""
    checkpoint: int | None
    """Step of the newest checkpoint."""
    open_alerts: int | None
    """Heads and layers with an alert that lasts."""
    place: str
    """The process and the machine that hold the run, or held it last; empty if none did."""

    @property
    def is_alive(self) -> bool:
        """Whether a process is training it, as far as can be seen from here."""
        return self.state in ("running", STARTING)


def overview(files: RunFiles) -> Overview:
    """Returns what the folder of a run says, whatever state the folder is in."""
    rows = list(last_rows(files.metrics))
    last = rows[-1] if rows else {}
    config, events, holder = files.read_config(), files.read_events(), files.holder()
    step = int(last.get(STEP, 0))
    given = config.get("max_steps")
    max_steps = int(given) if given is not None and is_number(given) else None
    is_alive = None if holder is None else holder.is_alive()
    state = STARTING if is_alive else NOT_STARTED
    if rows:
        state = status(files, events, step, max_steps)["state"]
        if state in ("running", "inactive") and is_alive is False:
            state = KILLED
    seconds = _typical(rows, STEP_SECONDS)
    return Overview(
        name=files.path.resolve().name,
        state=state,
        step=step,
        max_steps=max_steps,
        tokens=last.get(TOKENS),
        loss=_mean(rows, CE_LOSS),
        eval_loss=newest_value(files.metrics, EVAL_LOSS),
        tokens_per_second=_typical(rows, TOKENS_PER_SECOND),
        seconds_left=max(0, max_steps - step) * seconds
        if max_steps is not None and state == "running" and seconds
        else None,
        checkpoint=files.newest_checkpoint(),
        open_alerts=int(value) if (value := newest_value(files.metrics, OPEN_ALERTS)) is not None else None,
        place=holder.text if holder else "",
    )


def last_rows(path: Path, num_bytes: int = TAIL_BYTES) -> Iterator[Row]:
    """Yields the rows, the oldest first, that are whole within the last bytes of a metrics.jsonl."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - num_bytes))
            lines = file.read().split(b"\n")
    except OSError:
        return
    for line in lines:
        if (row := _row(line)) is not None:
            yield row


def newest_value(path: Path, name: str) -> float | None:
    """Returns the newest number of this name in a metrics.jsonl, however far from its end, or None."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            end = len(data)
            while (at := data.rfind(json.dumps(name).encode() + b":", 0, end)) >= 0:
                start = data.rfind(b"\n", 0, at) + 1
                stop = data.find(b"\n", at)
                row = _row(data[start : stop if stop >= 0 else len(data)])
                value = None if row is None else row.get(name)
                if value is not None and is_number(value):
                    return float(value)
                end = start
    except (OSError, ValueError):  # ValueError: an empty file cannot be mapped
        pass
    return None


def find_runs(root: Path) -> list[RunFiles]:
    """Returns the run folders in `root`, or `root` itself if it is one, the last changed one last."""
    if is_run(root):
        return [RunFiles(root)]
    found = [RunFiles(path) for path in root.iterdir() if path.is_dir() and is_run(path)] if root.is_dir() else []
    return sorted(found, key=lambda files: (_changed(files), files.path.name))


def is_run(path: Path) -> bool:
    """Returns whether a folder is that of a run, also of one without a step, or one that waits in a queue."""
    files = RunFiles(path)
    return any(file.is_file() for file in (files.metrics, files.config, files.events, files.job_file))


def _changed(files: RunFiles) -> float:
    paths = (files.metrics, files.events, files.config, files.job_file)
    newest = [path.stat().st_mtime for path in paths if path.exists()]
    return max(newest, default=0.0)


def _row(line: bytes) -> Row | None:
    try:
        row: Any = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) and is_number(row.get(STEP)) else None


def _values(rows: list[Row], name: str) -> list[float]:
    return [row[name] for row in rows if is_number(row.get(name))][-WINDOW:]


def _mean(rows: list[Row], name: str) -> float | None:
    values = _values(rows, name)
    return statistics.fmean(values) if values else None


def _typical(rows: list[Row], name: str) -> float | None:
    values = _values(rows, name)
    return statistics.median(values) if values else None
