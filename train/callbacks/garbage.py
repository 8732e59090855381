"""Runs Python's garbage collector at chosen steps only: otherwise it pauses one rank, and so all, at any moment."""

import gc

from train.callbacks.callback import Callback, TrainerInterface


class GarbageCollector(Callback):
    """Collects generation 1 every `interval` steps, on all ranks at once."""

    def __init__(self, interval: int) -> None:
        self._interval = interval
        self._was_enabled = True

    def on_start(self, trainer: TrainerInterface) -> None:
        self._was_enabled = gc.isenabled()
        gc.collect()
        gc.disable()

    def on_step_end(self, trainer: TrainerInterface) -> None:
        if trainer.step % self._interval == 0:
            gc.collect(1)

    def close(self) -> None:
        if self._was_enabled:
            gc.enable()
