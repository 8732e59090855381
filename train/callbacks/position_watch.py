"""Watches what RePo does with its positions, to see a failure the moment it starts.

At an interval, and in the step after an update that was not finite, it takes a reading (`train/watch/meter.py`:
statistics of the positions, and how training acts on the maps that make them) and shows it to the detectors
(`train/watch/detectors.py`). What they find goes to every callback, and may save a checkpoint, end the run, or roll it
back: `position_watch.policy`. In between it costs nothing but a copy of the heads' rows in the step before a reading. A
model without learned positions has no watch, and says so.
"""

import math
from typing import Any

from torch import Tensor

from report.metrics import OPEN_ALERTS
from train.callbacks.callback import StatefulCallback, TrainerInterface
from train.callbacks.console import Screen
from train.errors import Stop, StopReason
from train.watch.alert import ONLY_REPORTED, Alert
from train.watch.config import AlertPolicy, PositionWatchConfig
from train.watch.detectors import Detectors
from train.watch.meter import Meter
from train.watch.row_updates import rows_now
from train.watch.statistics import CHUNK


class PositionWatch(StatefulCallback):
    """Readings, alerts, and what follows from them."""

    name = "position_watch"

    def __init__(self, config: PositionWatchConfig, sequence_length: int, warmup_steps: int) -> None:
        """Takes the steps of the learning rate's warm-up, in which no layer is expected to learn."""
        self._config = config
        self._sequence_length = sequence_length
        self._detectors = Detectors(sequence_length, warmup_steps)
        self._has_positions = False
        self._meter: Meter | None = None
        self._rows: dict[int, Tensor] | None = None  # after the update before a reading
        self._raised: list[Alert] = []  # at this step
        self._is_lost = False  # whether the last update was the first of a row that were not finite
        self._num_lost = 0  # of this row
        self._has_warned = False  # that no sequence counts

    def on_start(self, trainer: TrainerInterface) -> None:
        self._has_positions = any(trainer.engine.model.learned_positions())
        if not self._has_positions and trainer.ranks.is_main:
            _say(trainer, "no layer learns its positions, so there is no position watch")
        if self._has_positions and self._sequence_length < CHUNK:
            self._warn_no_sequence(trainer)

    def on_step_start(self, trainer: TrainerInterface) -> None:
        is_due = trainer.is_logged and (trainer.step == 1 or trainer.step % self._config.interval == 0)
        if (is_due or self._is_lost) and self._has_positions:
            self._meter = Meter(trainer.engine, self._config.filtered_rows, self._rows)

    def on_gradients(self, trainer: TrainerInterface) -> None:
        if self._meter is not None:
            self._meter.read_gradients()

    def on_update(self, trainer: TrainerInterface) -> None:
        is_next = self._has_positions and (trainer.step + 1) % self._config.interval == 0
        self._rows = rows_now(trainer.engine) if is_next else None
        self._num_lost = 0 if math.isfinite(trainer.update.grad_norm) else self._num_lost + 1
        self._is_lost = self._num_lost == 1
        if self._meter is None:
            return
        reading = self._meter.finish(trainer.step, trainer.update.grad_norm, trainer.ranks.world_size)
        self._meter = None
        if reading is None:
            self._warn_no_sequence(trainer)
            return
        for name, value in reading.metrics().items():
            trainer.record(name, value)
        # One rank decides for all: were two to differ by a bit, one would save and the other not.
        alerts = trainer.ranks.gather(self._detectors.observe(reading))[0]
        trainer.record(OPEN_ALERTS, self._detectors.num_open)
        for alert in alerts:
            trainer.alert(alert)
        self._raised = [alert for alert in alerts if alert.is_new]

    def on_step_end(self, trainer: TrainerInterface) -> None:
        raised, self._raised = self._raised, []
        if not raised:
            return
        if self._config.policy is AlertPolicy.checkpoint:
            trainer.save()
        elif self._config.policy is AlertPolicy.stop:
            trainer.stop(Stop(StopReason.alert))
        failures = [alert for alert in raised if alert.kind not in ONLY_REPORTED]
        if self._config.policy is AlertPolicy.rollback and failures:
            trainer.roll_back(min(failures, key=lambda alert: alert.since))

    def _warn_no_sequence(self, trainer: TrainerInterface) -> None:
        if not self._has_warned and trainer.ranks.is_main:
            _say(
                trainer,
                f"no sequence of {CHUNK} tokens counts at step {trainer.step}, so the position watch sees nothing: "
                "set a longer sequence_length, mask_documents=false or position_watch.filtered_rows=true",
            )
        self._has_warned = True

    def state_dict(self) -> dict[str, Any]:
        return self._detectors.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._detectors.load_state_dict(state)


def _say(trainer: TrainerInterface, message: str) -> None:
    Screen(highlight=False, soft_wrap=True).print(f"{trainer.config.name}: {message}", markup=False)
