"""A guard against spikes: an update whose loss or gradient norm is far above the recent ones is not applied.

A value is a spike if it exceeds `median + threshold * spread` of the last `window` values of applied updates, where the
spread is 1.4826 times the median absolute deviation (for a normal distribution, the standard deviation), and at least
1 % of the median. Median and deviation do not move when a few values do, so one bad batch does not raise the limit for
the next, and values of dropped updates never enter the window.

The weights do not change while updates are dropped: a level that stays high comes from the data, and is no spike. After
`max_in_a_row` dropped updates the guard clears the window and applies every update until a new window is full.
"""

import statistics
from collections import deque
from dataclasses import dataclass
from typing import Any

from train.ranges import check_at_least

SIGMAS_PER_MAD = 1.4826
MIN_SPREAD = 0.01  # as a share of the median: without it, any change of a constant value would be a spike


@dataclass
class GuardConfig:
    """Drops finite updates whose loss or gradient norm jumps; off by default, as published."""

    loss: float | None = None
    """Drop an update whose loss is this many robust deviations above the window's median; null: ignore the loss."""
    grad_norm: float | None = None
    """The same for the global gradient norm before clipping; null: ignore it."""
    window: int = 128
    """Applied updates that the next one is compared with."""
    max_in_a_row: int = 5
    """Dropped updates in a row after which the new level counts as normal."""

    def validate(self) -> None:
        """Raises TrainError with the key, the value and the remedy."""
        check_at_least("guard", self, loss=1, grad_norm=1, window=8, max_in_a_row=1)


class SpikeGuard:
    """Decides about every update before it is applied; with the same numbers, every rank gets the same answer."""

    def __init__(self, config: GuardConfig) -> None:
        self._config = config
        self._thresholds = {"loss": config.loss, "gradient norm": config.grad_norm}
        self._windows: dict[str, deque[float]] = {
            name: deque(maxlen=config.window) for name, threshold in self._thresholds.items() if threshold is not None
        }
        self._in_a_row = 0

    @property
    def is_on(self) -> bool:
        """Whether a threshold is set."""
        return bool(self._windows)

    def judge(self, loss: float, grad_norm: float) -> str | None:
        """Returns why the update must not be applied; None if it may, and then its values enter the window.

        Returns None until the window is full. Values are finite.
        """
        values = {"loss": loss, "gradient norm": grad_norm}
        reasons = [reason for name in self._windows if (reason := self._spike(name, values[name]))]
        if reasons and self._in_a_row < self._config.max_in_a_row:
            self._in_a_row += 1
            return "; ".join(reasons)
        for name, window in self._windows.items():
            if reasons:
                window.clear()
            window.append(values[name])
        self._in_a_row = 0
        return None

    def state_dict(self) -> dict[str, Any]:
        """Returns the windows and the count of drops, JSON-serialisable."""
        return {"in_a_row": self._in_a_row, "windows": {name: list(window) for name, window in self._windows.items()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores `state_dict`; a window of another length keeps its newest values, a new one starts empty."""
        self._in_a_row = state["in_a_row"]
        for name, window in self._windows.items():
            window.clear()
            window.extend(state["windows"].get(name, []))

    def _spike(self, name: str, value: float) -> str | None:
        window, threshold = self._windows[name], self._thresholds[name]
        assert threshold is not None
        if len(window) < self._config.window:
            return None
        median = statistics.median(window)
        deviation = statistics.median(abs(earlier - median) for earlier in window)
        spread = max(SIGMAS_PER_MAD * deviation, MIN_SPREAD * abs(median))
        if value <= median + threshold * spread:
            return None
        return (
            f"{name} {value:.4g} is a spike: the last {len(window)} have a median of {median:.4g}, spread {spread:.2g}"
        )
