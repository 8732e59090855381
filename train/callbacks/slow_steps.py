"""Steps that take much longer than usual, and the rank that held them up.

All ranks finish a step together, so its duration does not tell who was late. Each rank therefore keeps the time in
which it waits for no other: reading data, and the forward passes (under ZeRO 3 these wait for weights of others, and
tell less). It is gathered every EVERY steps, so that an outlier costs the others nothing when it happens.
"""

import logging
import statistics
import time
from collections import deque
from typing import TYPE_CHECKING

from train.callbacks.callback import Callback

if TYPE_CHECKING:
    from train.trainer import Trainer

logger = logging.getLogger(__name__)

EVERY = 10  # steps between two exchanges
RECENT = 100  # steps that say what is usual
FEWEST = 20  # of them, before anything is an outlier
LEAST_SECONDS = 1.0  # a step below is not worth a line, however far from usual


class SlowSteps(Callback):
    """Logs step-time outliers as events, with the slowest rank. Steps that save or evaluate are not counted."""

    def __init__(self, factor: float) -> None:
        self._factor = factor
        self._steps: list[tuple[int, float, float]] = []  # (step, its seconds, this rank's own of them)
        self._recent: deque[float] = deque(maxlen=RECENT)
        self._start: float | None = None

    def on_step_start(self, trainer: "Trainer") -> None:
        self._start = time.perf_counter()

    def on_update(self, trainer: "Trainer") -> None:
        if self._start is not None:
            seconds = time.perf_counter() - self._start
            self._steps.append((trainer.step, seconds, trainer.data_seconds + trainer.engine.forward_seconds))

    def on_step_end(self, trainer: "Trainer") -> None:
        if trainer.step % EVERY:
            return
        ranks = trainer.ranks.gather(self._steps)
        self._steps = []
        for entries in zip(*ranks, strict=True):
            step, seconds = entries[0][0], max(seconds for _, seconds, _ in entries)
            self._judge(trainer, step, seconds, [own for _, _, own in entries])
            self._recent.append(seconds)

    def _judge(self, trainer: "Trainer", step: int, seconds: float, own: list[float]) -> None:
        if len(self._recent) < FEWEST or not trainer.ranks.is_main:
            return
        usual = statistics.median(self._recent)
        if seconds < max(self._factor * usual, LEAST_SECONDS):
            return
        slowest = max(range(len(own)), key=own.__getitem__)
        others = statistics.median(own[:slowest] + own[slowest + 1 :] or [0.0])
        logger.warning(
            "step %d took %.2f s, usually %.2f s; rank %d had %.2f s of it to itself, the others %.2f s",
            *(step, seconds, usual, slowest, own[slowest], others),
        )
        figures = {"seconds": seconds, "usual": usual, "own_seconds": own[slowest], "own_seconds_of_others": others}
        trainer.folder.log_event(
            "slow_step", step=step, rank=slowest, **{name: round(value, 3) for name, value in figures.items()}
        )
