"""Fewer numbers for the same picture: long curves are thinned out, arrays of positions become base64 of 16 bits.

A page opens in a second however long the run was, so what grows with it is reduced to what a screen can show.
"""

import base64
from collections.abc import Sequence
from typing import Any

import numpy as np

MAX_POINTS = 1000  # of a curve: about one per pixel
LARGEST = 1e30  # infinite positions are drawn as this
NOISY_FROM = 40  # points; shorter curves get no running mean
SMOOTHING = 0.02  # time constant of the running mean, as a share of the curve's length


def evenly_spaced(items: Sequence[Any], most: int) -> list[Any]:
    """Returns at most `most` of the items, evenly spaced, the first and the last among them."""
    if len(items) <= most:
        return list(items)
    return [items[index] for index in np.linspace(0, len(items) - 1, max(most, 1)).round().astype(int)]


def thin(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns at most MAX_POINTS points of a curve, with every spike: the lowest and the highest of each stretch."""
    if len(x) <= MAX_POINTS:
        return x, y
    kept = {0, len(x) - 1}
    for part in np.array_split(np.arange(len(x)), MAX_POINTS // 2 - 1):
        kept |= {int(part[y[part].argmin()]), int(part[y[part].argmax()])}
    indices = np.array(sorted(kept))
    return x[indices], y[indices]


def smooth(y: np.ndarray) -> np.ndarray:
    """Returns the exponential running mean, corrected for the bias of its start."""
    decay = np.exp(-1 / max(1.0, SMOOTHING * len(y)))
    means = np.empty(len(y))
    total = weight = 0.0
    for index, value in enumerate(y.tolist()):
        total, weight = decay * total + value, decay * weight + 1
        means[index] = total / weight
    return means


def is_noisy(y: np.ndarray) -> bool:
    """Returns whether a curve changes direction at more than a fifth of its points."""
    return len(y) >= NOISY_FROM and bool((np.diff(y)[1:] * np.diff(y)[:-1] < 0).mean() > 0.2)


def curve(x: Sequence[int], y: Sequence[float]) -> dict[str, list[Any]]:
    """Returns a thinned curve `x`, `y` and its running mean `smooth_x`, `smooth_y`, empty unless it is noisy."""
    steps, values = np.asarray(x), np.asarray(y, np.float64)
    kept = np.array(evenly_spaced(range(len(steps)), MAX_POINTS // 2) if is_noisy(values) else [], int)
    thin_x, thin_y = thin(steps, values)
    return {
        "x": thin_x.tolist(),
        "y": rounded(thin_y),
        "smooth_x": steps[kept].tolist(),
        "smooth_y": rounded(smooth(values)[kept]),
    }


def rounded(values: np.ndarray) -> list[float | None]:
    """Returns five digits of each number; None for what is not finite."""
    return [float(f"{value:.5g}") if np.isfinite(value) else None for value in values.tolist()]


def pack(rows: np.ndarray) -> dict[str, Any]:
    """Returns [..., T] as 16-bit levels between the lowest and the highest number of each row.

    `levels` is base64 of little-endian uint16; `low` and `range`, the lowest number and the range of each row, of
    float32.
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
