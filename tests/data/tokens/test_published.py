"""The order of an epoch: its first rows before the rest, and the rest once, whoever asks for it."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from data.tokens import published
from data.tokens.published import EpochOrder, published_order

NUM_ROWS = 5000


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(published, "MIN_KEPT_ROWS", 100)


@pytest.fixture
def num_shuffled(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows each whole shuffle had."""
    seen: list[int] = []

    def spy(num_rows: int, seed: int) -> np.ndarray:
        seen.append(num_rows)
        return shuffled(num_rows, seed)

    shuffled = published.shuffled
    monkeypatch.setattr(published, "shuffled", spy)
    return seen


def test_the_first_rows_come_without_the_rest_which_is_made_once(tmp_path: Path, num_shuffled: list[int]) -> None:
    expected = published_order(NUM_ROWS, 42, 1)
    num_shuffled.clear()
    jobs: list[Callable[[], object]] = []
    order = EpochOrder(tmp_path, NUM_ROWS, 42, 1, jobs.append)
    np.testing.assert_array_equal(order.rows(0, 64), expected[:64])
    assert not num_shuffled and not jobs
    for _ in range(3):  # after each step
        order.make_rest()
    assert len(jobs) == 1
    while jobs:  # the order, and its copy
        jobs.pop(0)()
    np.testing.assert_array_equal(order.rows(64, 128), expected[64:128])
    np.testing.assert_array_equal(order.whole(), expected)
    assert order.whole() is order.whole()
    order.make_rest()
    assert num_shuffled == [NUM_ROWS] and not jobs
    again = EpochOrder(tmp_path, NUM_ROWS, 42, 1, jobs.append)
    np.testing.assert_array_equal(again.rows(0, 64), expected[:64])
    again.make_rest()
    assert num_shuffled == [NUM_ROWS] and not jobs


def test_a_later_place_has_the_whole_order_and_waits_for_no_thread(tmp_path: Path, num_shuffled: list[int]) -> None:
    expected = published_order(NUM_ROWS, 42, 0)
    order = EpochOrder(tmp_path, NUM_ROWS, 42, 0, lambda job: None)
    np.testing.assert_array_equal(order.rows(128, 192), expected[128:192])
    np.testing.assert_array_equal(order.rows(0, 64), expected[:64])
    first = EpochOrder(tmp_path, NUM_ROWS, 42, 0, lambda job: None)
    first.rows(0, 64)
    first.make_rest()  # by a thread that never comes to it
    np.testing.assert_array_equal(first.rows(64, 128), expected[64:128])


def test_first_rows_that_are_not_those_of_the_whole_order_end_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(published, "first_shuffled", lambda num_rows, seed, stop: np.arange(stop, dtype=np.uint32))
    order = EpochOrder(tmp_path, NUM_ROWS, 42, 0, lambda job: None)
    order.rows(0, 64)
    with pytest.raises(RuntimeError, match="numpy shuffles in another way"):
        order.rows(64, 128)
