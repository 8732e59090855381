"""metrics.jsonl and events.jsonl: the records of a run, from which every other view can be rebuilt.

train/records.py keeps them whole.
"""

import math
from typing import Any

from train.callbacks.callback import Callback, TrainerInterface
from train.checkpoint.store import step_of
from train.errors import Stop
from train.records import drop_later_rows
from train.watch.alert import Alert


def finite(value: Any) -> Any:
    """Returns the number, or the list of numbers, with None for what is not finite: JSON has no word for it."""
    if isinstance(value, list):
        return [finite(number) for number in value]
    return value if math.isfinite(value) else None


class MetricsFile(Callback):
    """Writes one line per logged step, at once."""

    main_rank_only = True

    def on_start(self, trainer: TrainerInterface) -> None:
        drop_later_rows(trainer.folder, trainer.step)

    def on_metrics(self, trainer: TrainerInterface, metrics: dict[str, Any]) -> None:
        trainer.folder.log_metrics({name: finite(value) for name, value in metrics.items()})


class EventLog(Callback):
    """Logs start, resume, skip, checkpoint, save_failed, alert, recovery and stop, with time and step."""

    main_rank_only = True

    def on_start(self, trainer: TrainerInterface) -> None:
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
