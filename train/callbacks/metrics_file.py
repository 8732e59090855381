"""metrics.jsonl and events.jsonl: the record of a run, from which every other view can be rebuilt."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common.files import write_text_whole
from common.json_lines import JsonLines, read_json_lines
from train.callbacks.callback import Callback, TrainerInterface
from train.checkpoint.store import step_of
from train.errors import Stop
from train.run_folder import explained_write_errors
from train.watch.alert import Alert


def finite(value: Any) -> Any:
    """Returns the number, or the list of numbers, with None for what is not finite: JSON has no word for it."""
    if isinstance(value, list):
        return [finite(number) for number in value]
    return value if math.isfinite(value) else None


def keep_rows(path: Path, is_kept: Callable[[dict[str, Any]], bool]) -> None:
    """Rewrites a JSON-lines file with the rows that `is_kept` accepts.

    A run that was killed had gone past its last checkpoint; the steps after it are done again, and so are their rows.
    """
    rows = read_json_lines(path)
    kept = [row for row in rows if is_kept(row)]
    with explained_write_errors(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text_whole(path, "".join(json.dumps(row) + "\n" for row in kept), durable=False)


class MetricsFile(Callback):
    """Writes one line per logged step, at once."""

    main_rank_only = True

    def __init__(self) -> None:
        self._file: JsonLines | None = None

    def on_start(self, trainer: TrainerInterface) -> None:
        keep_rows(trainer.folder.metrics, lambda row: row["step"] <= trainer.step)
        self._file = JsonLines(trainer.folder.metrics)

    def on_metrics(self, trainer: TrainerInterface, metrics: dict[str, Any]) -> None:
        if self._file is not None:
            self._file.append({name: finite(value) for name, value in metrics.items()})


class EventLog(Callback):
    """Logs start, resume, skip, checkpoint, save_failed, alert, recovery and stop, with time and step."""

    main_rank_only = True

    def on_start(self, trainer: TrainerInterface) -> None:
        found_again = ("alert", "recovery")
        keep_rows(trainer.folder.events, lambda row: row["event"] not in found_again or row["step"] <= trainer.step)
        kind = "resume" if trainer.step else "start"
        self._log(trainer, kind, world_size=trainer.ranks.world_size, zero_stage=trainer.engine.zero_stage)

    def on_skip(self, trainer: TrainerInterface, reason: str) -> None:
        self._log(trainer, "skip", reason=reason)

    def on_checkpoint(self, trainer: TrainerInterface, folder: str) -> None:
        self._log(trainer, "checkpoint", step=step_of(folder), folder=folder)

    def on_save_failed(self, trainer: TrainerInterface, reason: str) -> None:
        self._log(trainer, "save_failed", reason=reason)

    def on_alert(self, trainer: TrainerInterface, alert: Alert) -> None:
        self._log(trainer, alert.event, **alert.as_plain())

    def on_stop(self, trainer: TrainerInterface, stop: Stop) -> None:
        fields = {"reason": stop.reason.word, "exit_code": stop.reason.exit_code}
        self._log(trainer, "stop", **fields, **({"detail": stop.detail} if stop.detail else {}))

    def _log(self, trainer: TrainerInterface, event: str, /, **fields: Any) -> None:
        trainer.folder.log_event(event, **{"step": trainer.step, **fields})
