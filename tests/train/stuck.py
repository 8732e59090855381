"""A worker whose last rank hangs, or is slow, at a chosen step: `python -m tests.train.stuck ROOT MANNER`."""

import os
import signal
import sys
import time
from pathlib import Path

from tests.train.tiny import tiny
from train.__main__ import train
from train.callbacks.callback import Callback, TrainerInterface
from train.distributed import Ranks, leave

STEP = 3
LIMITS = {"watchdog__warn_seconds": 0.5, "watchdog__step_seconds": 2.0, "watchdog__other_seconds": 60.0}


class HangingRank(Callback):
    """Stops the progress of the last rank: it sleeps, or its whole process is frozen, its watchdog included."""

    def __init__(self, manner: str) -> None:
        self._manner = manner

    def on_update(self, trainer: TrainerInterface) -> None:
        if trainer.step == STEP and trainer.ranks.rank == trainer.ranks.world_size - 1:
            if self._manner == "frozen":
                os.kill(os.getpid(), signal.SIGSTOP)
            time.sleep(3600)


def main(root: str, manner: str) -> int:
    ranks = Ranks()
    ranks.join()
    return train(tiny(Path(root), name=manner, **LIMITS), ranks, [HangingRank(manner)])


if __name__ == "__main__":
    leave(main(*sys.argv[1:]))
