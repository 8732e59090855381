"""A worker whose last rank hangs at a chosen step: `python -m tests.train.stuck ROOT MANNER`."""

import os
import signal
import sys
import threading
import time
from pathlib import Path

from tests.train.tiny import tiny
from train.__main__ import train
from train.callbacks.callback import Callback, TrainerInterface
from train.distributed import Ranks, leave
from train.trainer import Trainer
from train.watchdog import Watchdog

STEP = 3
LIMIT = 2.0
LIMITS = {"watchdog__warn_seconds": 0.5, "watchdog__step_seconds": LIMIT}  # others have 25 minutes, unless learned
TICK = 0.05  # seconds; less than a tenth of the limits


class HangClock:
    """The watchdog's clock: it stands still before the hang, and then goes on a little each time it is read.

    So no limit is reached early or skipped on a machine that is slow.
    """

    def __init__(self) -> None:
        self._now = 0.0
        self._runs = False

    def __call__(self) -> float:
        """Returns the seconds since the hang."""
        if self._runs:
            self._now += TICK
        return self._now

    def start(self) -> None:
        self._runs = True


class HangingRank(Callback):
    """Stops the progress of the last rank once the others wait for it: it sleeps, or its whole process is frozen."""

    def __init__(self, manner: str, clock: HangClock) -> None:
        self._manner = manner
        self._clock = clock

    def on_update(self, trainer: TrainerInterface) -> None:
        if trainer.step != STEP:
            return
        assert isinstance(trainer, Trainer)
        watchdog, number = trainer.watchdog, trainer.watchdog.place.number
        if trainer.ranks.rank == trainer.ranks.world_size - 1:
            while any(report.number <= number for report in watchdog.read_reports().values()):
                time.sleep(0.01)
            if self._manner == "frozen":
                os.kill(os.getpid(), signal.SIGSTOP)
            self._clock.start()
            time.sleep(3600)
        elif self._manner == "frozen":
            threading.Thread(target=self._start_after, args=(watchdog, number), daemon=True).start()

    def _start_after(self, watchdog: Watchdog, number: int) -> None:
        """Starts the clock of a rank that waits once it is past this place."""
        while watchdog.place.number <= number:
            time.sleep(0.01)
        self._clock.start()


def main(root: str, manner: str) -> int:
    ranks, clock = Ranks(), HangClock()
    ranks.join()
    return train(tiny(Path(root), name=manner, **LIMITS), ranks, [HangingRank(manner, clock)], clock)


if __name__ == "__main__":
    leave(main(*sys.argv[1:]))
