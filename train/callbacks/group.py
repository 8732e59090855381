"""Calls the callbacks of a run in order, and tells the watchdog which one is running."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from train.callbacks.callback import Callback, StatefulCallback, TrainerInterface
from train.distributed import Ranks
from train.errors import Stop
from train.watch.alert import Alert
from train.watchdog import Watchdog

logger = logging.getLogger(__name__)


class CallbackGroup:
    """All callbacks of a run, with the hooks of one.

    Raises ValueError if two stateful callbacks share a name.
    """

    def __init__(self, callbacks: Sequence[Callback], ranks: Ranks, watchdog: Watchdog) -> None:
        self._callbacks = list(callbacks)
        self._is_main = ranks.is_main
        self._watchdog = watchdog
        self._stateful = {callback.name: callback for callback in callbacks if isinstance(callback, StatefulCallback)}
        names = [callback.name for callback in callbacks if isinstance(callback, StatefulCallback)]
        if len(self._stateful) < len(names):
            raise ValueError(f"callbacks with state must have different names, not {names}")

    def on_start(self, trainer: TrainerInterface) -> None:
        for callback in self._running("on_start"):
            callback.on_start(trainer)

    def on_step_start(self, trainer: TrainerInterface) -> None:
        for callback in self._running("on_step_start", is_step=True):
            callback.on_step_start(trainer)

    def on_gradients(self, trainer: TrainerInterface) -> None:
        for callback in self._running("on_gradients", is_step=True):
            callback.on_gradients(trainer)

    def on_skip(self, trainer: TrainerInterface, reason: str) -> None:
        for callback in self._running("on_skip", is_step=True):
            callback.on_skip(trainer, reason)

    def on_update(self, trainer: TrainerInterface) -> None:
        for callback in self._running("on_update", is_step=True):
            callback.on_update(trainer)

    def on_evaluate(self, trainer: TrainerInterface) -> None:
        for callback in self._running("on_evaluate"):
            callback.on_evaluate(trainer)

    def on_metrics(self, trainer: TrainerInterface, metrics: dict[str, Any]) -> None:
        for callback in self._running("on_metrics", is_step=True):
            callback.on_metrics(trainer, metrics)

    def on_alert(self, trainer: TrainerInterface, alert: Alert) -> None:
        for callback in self._running("on_alert"):
            callback.on_alert(trainer, alert)

    def on_probe(self, trainer: TrainerInterface, path: Path) -> None:
        for callback in self._running("on_probe"):
            callback.on_probe(trainer, path)

    def on_step_end(self, trainer: TrainerInterface) -> None:
        for callback in self._running("on_step_end"):
            callback.on_step_end(trainer)

    def on_checkpoint(self, trainer: TrainerInterface, folder: str) -> None:
        for callback in self._running("on_checkpoint"):
            callback.on_checkpoint(trainer, folder)

    def on_save_failed(self, trainer: TrainerInterface, reason: str) -> None:
        for callback in self._running("on_save_failed"):
            callback.on_save_failed(trainer, reason)

    def on_finish(self, trainer: TrainerInterface) -> None:
        for callback in self._running("on_finish"):
            callback.on_finish(trainer)

    def on_stop(self, trainer: TrainerInterface, stop: Stop) -> None:
        """Runs every callback's `on_stop`; what one raises is logged and keeps no other from running."""
        for callback in self._running("on_stop"):
            try:
                callback.on_stop(trainer, stop)
            except Exception:
                logger.exception("%s failed at the stop of the run", type(callback).__name__)

    def close(self) -> None:
        """Closes every callback; what one raises is logged."""
        for callback in self._callbacks:
            try:
                callback.close()
            except Exception:
                logger.exception("%s could not be closed", type(callback).__name__)

    def state_dict(self) -> dict[str, dict[str, Any]]:
        """Returns the state of every stateful callback by name."""
        return {name: callback.state_dict() for name, callback in self._stateful.items()}

    def load_state_dict(self, states: Mapping[str, dict[str, Any]]) -> None:
        """Restores the callbacks that have a saved state; one that is new keeps its own."""
        for name, callback in self._stateful.items():
            if name in states:
                callback.load_state_dict(states[name])

    def _running(self, hook: str, *, is_step: bool = False) -> Iterator[Callback]:
        """Yields the callbacks that run on this rank; all ranks note the same places in the watchdog."""
        for callback in self._callbacks:
            self._watchdog.enter(hook, of=callback, is_step=is_step)
            if self._is_main or not callback.main_rank_only:
                yield callback
