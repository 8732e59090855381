"""metrics.jsonl and events.jsonl: the truth about a run. Every other sink can be rebuilt from them."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.json_lines import JsonLines, read_json_lines
from train.callbacks.callback import Callback
from train.checkpoint.store import step_of
from train.run_folder import explained_write_errors
from train.watch.alert import Alert

if TYPE_CHECKING:
    from train.trainer import Trainer


def finite(value: Any) -> Any:
    """The number, or the list of numbers, with None for what is not finite."""
    if isinstance(value, list):
        return [finite(number) for number in value]
    return value if math.isfinite(value) else None


def keep_rows(path: Path, is_kept: Callable[[dict[str, Any]], bool]) -> None:
    """Leave only these rows in a JSON-lines file, in one rename.

    A run that was killed had gone on past its last checkpoint; what it had written of those steps is superseded: they
    are about to be done again.
    """
    kept = [row for row in read_json_lines(path) if is_kept(row)]
    part = path.with_suffix(".part")
    with explained_write_errors(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text("".join(json.dumps(row) + "\n" for row in kept))
        part.replace(path)


class MetricsFile(Callback):
    """One line per logged step, written at once; null stands for what is not finite: JSON has no word for it."""

    def __init__(self) -> None:
        self._file: JsonLines | None = None

    def on_start(self, trainer: "Trainer") -> None:
        if not trainer.ranks.is_main:
            return
        keep_rows(trainer.folder.metrics, lambda row: row["step"] <= trainer.step)
        self._file = JsonLines(trainer.folder.metrics)

    def on_metrics(self, trainer: "Trainer", metrics: dict[str, Any]) -> None:
        if self._file is not None:
            self._file.append({name: finite(value) for name, value in metrics.items()})


class EventLog(Callback):
    """start, resume, skip, checkpoint, alert, recovery and stop, with time and step."""

    def on_start(self, trainer: "Trainer") -> None:
        if trainer.ranks.is_main:
            found = ("alert", "recovery")  # will be found again
            keep_rows(trainer.folder.events, lambda row: row["event"] not in found or row["step"] <= trainer.step)
        kind = "resume" if trainer.step else "start"
        self._log(trainer, kind, world_size=trainer.ranks.world_size, zero_stage=trainer.engine.zero_stage)

    def on_skip(self, trainer: "Trainer", reason: str) -> None:
        self._log(trainer, "skip", reason=reason)

    def on_checkpoint(self, trainer: "Trainer", folder: str) -> None:
        self._log(trainer, "checkpoint", step=step_of(folder), folder=folder)

    def on_save_failed(self, trainer: "Trainer", reason: str) -> None:
        self._log(trainer, "save_failed", reason=reason)

    def on_alert(self, trainer: "Trainer", alert: Alert) -> None:
        self._log(trainer, alert.event, **alert.as_plain())

    def on_stop(self, trainer: "Trainer", reason: str) -> None:
        self._log(trainer, "stop", reason=reason)

    def _log(self, trainer: "Trainer", event: str, /, **fields: Any) -> None:
        if trainer.ranks.is_main:
            trainer.folder.log_event(event, **{"step": trainer.step, **fields})
