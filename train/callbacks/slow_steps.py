"""Reports steps that take much longer than usual, and the rank that delayed them.

All ranks finish a step together, so its duration does not tell which rank was late. Each rank therefore measures the
time in which it waits for no other: reading data, and the forward passes (under ZeRO 3 these wait for weights of other
ranks, and tell less). It is gathered every EXCHANGE_INTERVAL steps, so that most steps need no exchange.
"""

import logging
import statistics
import time
from collections import deque
from collections.abc import Callable

from train.callbacks.callback import Callback, TrainerInterface

logger = logging.getLogger(__name__)

EXCHANGE_INTERVAL = 10  # steps between two exchanges
WINDOW = 100  # recent steps whose median is the usual duration
MIN_STEPS = 20  # in the window before a step can be an outlier
MIN_SECONDS = 1.0  # a shorter step is never reported


class SlowSteps(Callback):
    """Logs step-time outliers as events, with the slowest rank. Steps that save or evaluate are not counted."""

    def __init__(self, factor: float, clock: Callable[[], float] = time.perf_counter) -> None:
        self._factor, self._clock = factor, clock
        self._steps: list[tuple[int, float, float]] = []  # (step, its seconds, this rank's own of them)
        self._recent: deque[float] = deque(maxlen=WINDOW)
        self._start: float | None = None

    def on_step_start(self, trainer: TrainerInterface) -> None:
        self._start = self._clock()

    def on_update(self, trainer: TrainerInterface) -> None:
        if self._start is not None:
            seconds = self._clock() - self._start
            self._steps.append((trainer.step, seconds, trainer.data_seconds + trainer.engine.forward_seconds))

    def on_step_end(self, trainer: TrainerInterface) -> None:
        if trainer.step % EXCHANGE_INTERVAL:
            return
        ranks = trainer.ranks.gather(self._steps)
        self._steps = []
        for entries in zip(*ranks, strict=True):
            step, seconds = entries[0][0], max(seconds for _, seconds, _ in entries)
            self._judge(trainer, step, seconds, [own for _, _, own in entries])
            self._recent.append(seconds)

    def _judge(self, trainer: TrainerInterface, step: int, seconds: float, own: list[float]) -> None:
        if len(self._recent) < MIN_STEPS or not trainer.ranks.is_main:
            return
        usual = statistics.median(self._recent)
        if seconds < max(self._factor * usual, MIN_SECONDS):
            return
        slowest = max(range(len(own)), key=own.__getitem__)
        figures = {"seconds": seconds, "usual": usual, "own_seconds": own[slowest]}
        line = f"rank {slowest} worked for {own[slowest]:.2f} s of it"
        if others := own[:slowest] + own[slowest + 1 :]:
            figures["own_seconds_of_others"] = statistics.median(others)
            line += f", the others for {figures['own_seconds_of_others']:.2f} s (median)"
        logger.warning("step %d took %.2f s, usually %.2f s; %s", step, seconds, usual, line)
        trainer.folder.log_event(
            "slow_step", step=step, rank=slowest, **{name: round(value, 3) for name, value in figures.items()}
        )
