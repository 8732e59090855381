"""Reads what W&B wrote offline, record by record, once it is complete.

The last record of a run is `exit`: a process of W&B writes the file, and may go on after the run that it belongs to has
ended.
"""

import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from train.wandb_rows import read_records


@dataclass
class OfflineRun:
    """One launch's part of a W&B run."""

    run_id: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)
    alerts: list[tuple[str, str, str]] = field(default_factory=list)
    """Title, text and level."""
    media: Path = Path()
    """What the paths of images are relative to."""
    is_finished: bool = False
    """Whether its last record is there."""


def finished_runs(folder: Path) -> list[OfflineRun]:
    """Every part below `folder`, oldest first, once the last record of each is written."""
    return [wait_for_end(path) for path in sorted(folder.glob("offline-run-*"))]  # their names begin with the time


def wait_for_end(part: Path) -> OfflineRun:
    """The part in this folder, once its last record is written; the deadline only ends a test that fails."""
    deadline = time.monotonic() + 300
    while not (run := read_offline(part)).is_finished:
        assert time.monotonic() < deadline, f"{part} is not finished"
        time.sleep(0.05)
    return run


def read_offline(part: Path) -> OfflineRun:
    """The run id, the config, the logged rows and the alerts, as far as they are written."""
    run = OfflineRun(media=part / "files")
    for record in (record for path in part.glob("run-*.wandb") for record in read_records(path)):
        if record.HasField("run"):
            run.run_id = record.run.run_id
            run.config.update({item.key: json.loads(item.value_json) for item in record.run.config.update})
        elif record.HasField("history"):
            run.rows.append(_nested((item.nested_key or [item.key], item.value_json) for item in record.history.item))
        elif record.HasField("alert"):
            run.alerts.append((record.alert.title, record.alert.text, record.alert.level))
        elif record.HasField("exit"):
            run.is_finished = True
    return run


def _nested(items: Iterable[tuple[Sequence[str], str]]) -> dict[str, Any]:
    """A row from paths of keys and JSON; images and histograms are dicts in it."""
    row: dict[str, Any] = {}
    for path, value in items:
        owner = row
        for key in path[:-1]:
            owner = owner.setdefault(key, {})
        owner[path[-1]] = json.loads(value)
    return row
