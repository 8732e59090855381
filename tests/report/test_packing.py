"""Fewer numbers for the same picture: what thinning, smoothing and packing keep."""

import base64

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from report.packing import MAX_POINTS, curve, evenly_spaced, pack, smooth, thin


@given(arrays(np.float64, st.integers(1, 5000), elements=st.floats(-1e6, 1e6)))
def test_thinning_keeps_both_ends_and_every_extreme(y: np.ndarray) -> None:
    x = np.arange(len(y))
    thin_x, thin_y = thin(x, y)
    assert len(thin_x) <= MAX_POINTS
    assert (np.diff(thin_x) > 0).all() and np.array_equal(y[thin_x], thin_y)
    assert {thin_x[0], thin_x[-1]} == {0, len(y) - 1}
    assert thin_y.max() == y.max() and thin_y.min() == y.min()


@given(st.integers(0, 500), st.integers(1, 50))
def test_evenly_spaced_items_hold_the_first_and_the_last(count: int, most: int) -> None:
    chosen = evenly_spaced(range(count), most)
    assert len(chosen) == min(count, most) and chosen == sorted(set(chosen))
    assert not count or most == 1 or (chosen[0], chosen[-1]) == (0, count - 1)


def test_the_running_mean_has_no_bias_at_its_start() -> None:
    assert smooth(np.full(500, 3.0)) == pytest.approx(np.full(500, 3.0))
    noisy = 3 + np.random.default_rng(0).normal(size=5000)
    assert np.abs(smooth(noisy)[200:] - 3).max() < 0.5
    assert curve(range(5000), noisy.tolist())["smooth_y"] and not curve(range(50), list(range(50)))["smooth_y"]


def test_packed_positions_hold_16_bits_of_each_row() -> None:
    z = np.random.default_rng(0).normal(size=(2, 3, 4, 50)) * np.logspace(-3, 5, 4)[:, None]
    z[0, 0, 0] = 7.0
    z[1, 2, 3, 0] = np.nan
    packed = pack(z)
    levels, low, spread = (
        np.frombuffer(base64.b64decode(packed[key]), dtype).astype(np.float64)
        for key, dtype in (("levels", "<u2"), ("low", "<f4"), ("range", "<f4"))
    )
    back = low.reshape(2, 3, 4, 1) + spread.reshape(2, 3, 4, 1) * levels.reshape(packed["shape"]) / 65535
    known = np.nan_to_num(z)
    assert (np.abs(back - known).max(axis=-1) <= 2e-5 * np.ptp(known, axis=-1) + 1e-6).all()
