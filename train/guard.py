"""A guard against spikes: an update whose loss or gradient norm is far above the recent ones is not applied.

A value is a spike if it exceeds `median + threshold * spread` of the last `window` values of applied updates, where the
spread is 1.4826 times the median absolute deviation (the standard deviation, of a normal distribution), and at least a
hundredth of the median. Median and deviation do not move when a few values do, so one bad batch does not raise the bar
for the next, and refused values never enter the window.

The weights do not move while updates are refused: a level that stays high comes from the data, and is no spike. After
`max_in_a_row` refusals the guard takes the new level for what it is and learns it anew.
"""

import statistics
from collections import deque
from typing import Any

from train.config import GuardConfig

SIGMAS_PER_MAD = 1.4826
LEAST_SPREAD = 0.01  # of the median: what never varies has no outliers


class SpikeGuard:
    """Judges every update before it is applied. All ranks ask with the same numbers, and so get the same answer."""

    def __init__(self, config: GuardConfig) -> None:
        self._config = config
        self._thresholds = {"loss": config.loss, "gradient norm": config.grad_norm}
        self._windows: dict[str, deque[float]] = {
            name: deque(maxlen=config.window) for name, threshold in self._thresholds.items() if threshold is not None
        }
        self._in_a_row = 0

    @property
    def is_on(self) -> bool:
        """Whether there is anything that it looks at."""
        return bool(self._windows)

    def judge(self, loss: float, grad_norm: float) -> str | None:
        """Why the update must not be applied; None: it may be, and its values are remembered.

        Silent until a whole window has been seen. Values are finite.
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
        """JSON-serialisable."""
        return {"in_a_row": self._in_a_row, "windows": {name: list(window) for name, window in self._windows.items()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse; a window of another length keeps its newest values, and one that is new starts empty."""
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
        spread = max(SIGMAS_PER_MAD * deviation, LEAST_SPREAD * abs(median))
        if value <= median + threshold * spread:
            return None
        return (
            f"{name} {value:.4g} is a spike: the last {len(window)} have a median of {median:.4g}, spread {spread:.2g}"
        )
