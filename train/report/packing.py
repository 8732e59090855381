"""Fewer numbers for the same picture: long curves thinned out, arrays of positions as base64 of 16 bits.

A page has to open in a second however long the run was, so everything that grows with it is cut down to what a screen
can show.
"""

import base64
from collections.abc import Sequence
from typing import Any

import numpy as np

MAX_POINTS = 1000  # of a curve: about one per pixel
LARGEST = 1e30  # what an infinite position is drawn as
NOISY_FROM = 40  # points: fewer can be read as they are
SMOOTHING = 0.02  # of a curve's length: the time constant of its running mean


def evenly(items: Sequence[Any], most: int) -> list[Any]:
    """At most so many of the items, evenly spaced, the first and the last among them."""
    if len(items) <= most:
        return list(items)
    return [items[index] for index in np.linspace(0, len(items) - 1, max(most, 1)).round().astype(int)]


def thin(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A curve within MAX_POINTS that keeps every spike: of each stretch, its lowest and its highest point."""
    if len(x) <= MAX_POINTS:
        return x, y
    kept = {0, len(x) - 1}
    for part in np.array_split(np.arange(len(x)), MAX_POINTS // 2 - 1):
        kept |= {int(part[y[part].argmin()]), int(part[y[part].argmax()])}
    indices = np.array(sorted(kept))
    return x[indices], y[indices]


def smooth(y: np.ndarray) -> np.ndarray:
    """The exponential running mean, without the bias of its start."""
    decay = np.exp(-1 / max(1.0, SMOOTHING * len(y)))
    means = np.empty(len(y))
    total = weight = 0.0
    for index, value in enumerate(y.tolist()):
        total, weight = decay * total + value, decay * weight + 1
        means[index] = total / weight
    return means


def is_noisy(y: np.ndarray) -> bool:
    """Whether a curve goes up and down so often that its running mean says more."""
    return len(y) >= NOISY_FROM and bool((np.diff(y)[1:] * np.diff(y)[:-1] < 0).mean() > 0.2)


def curve(x: Sequence[int], y: Sequence[float]) -> dict[str, list[Any]]:
    """A thinned curve `x`, `y`, and if it is a noisy one its running mean `smooth_x`, `smooth_y`, else empty."""
    steps, values = np.asarray(x), np.asarray(y, np.float64)
    kept = np.array(evenly(range(len(steps)), MAX_POINTS // 2) if is_noisy(values) else [], int)
    thin_x, thin_y = thin(steps, values)
    return {
        "x": thin_x.tolist(),
        "y": short(thin_y),
        "smooth_x": steps[kept].tolist(),
        "smooth_y": short(smooth(values)[kept]),
    }


def short(values: np.ndarray) -> list[float | None]:
    """Five digits of each number; None for what is not finite."""
    return [float(f"{value:.5g}") if np.isfinite(value) else None for value in values.tolist()]


def pack(rows: np.ndarray) -> dict[str, Any]:
    """[..., T] as 16 bits between the lowest and the highest number of each row: for pictures exact.

    JavaScript gets base64 of little-endian uint16, and of each row's lowest number and its range as float32.
    """
    rows = np.nan_to_num(rows.astype(np.float64), posinf=LARGEST, neginf=-LARGEST).clip(-LARGEST, LARGEST)
    low = rows.min(axis=-1, keepdims=True)
    spread = rows.max(axis=-1, keepdims=True) - low
    levels = (rows - low) / np.where(spread > 0, spread, 1) * 65535
    return {
        "shape": list(rows.shape),
        "levels": _base64(levels.round().astype("<u2")),
        "low": _base64(low.astype("<f4")),
        "range": _base64(spread.astype("<f4")),
    }


def _base64(values: np.ndarray) -> str:
    return base64.b64encode(values.tobytes()).decode()
