"""The beginning of a shuffle is that of the whole one, and another way of shuffling is noticed."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from data.tokens import shuffle
from data.tokens.shuffle import first_shuffled, follow_back, shuffled, swaps_of

NEAR_POWERS = [2**bits + more for bits in range(1, 18) for more in (-1, 0, 1)]


@settings(deadline=None, max_examples=200)
@example(0, 0, 5)
@example(1, 0, 1)
@example(2, 1, 2)
@example(3 << 15, 7, 512)
@given(
    st.one_of(st.integers(0, 300), st.sampled_from(NEAR_POWERS), st.integers(300, 200_000)),
    st.integers(0, 2**63),
    st.one_of(st.integers(0, 20), st.integers(0, 2000)),
)
def test_the_beginning_is_that_of_numpys_shuffle(num_rows: int, seed: int, num_first: int) -> None:
    first = first_shuffled(num_rows, seed, num_first)
    assert first.dtype == np.uint32
    np.testing.assert_array_equal(first, shuffled(num_rows, seed)[:num_first])


@pytest.mark.parametrize("num_rows", NEAR_POWERS)
def test_all_of_it_is_numpys_shuffle(num_rows: int) -> None:
    for seed in range(3):
        num_first = min(num_rows + seed, 3000)
        np.testing.assert_array_equal(first_shuffled(num_rows, seed, num_first), shuffled(num_rows, seed)[:num_first])


@pytest.mark.parametrize("num_together", [2, 30, 1000])
def test_how_many_are_looked_at_together_makes_no_difference(
    num_together: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shuffle, "NUM_DRAWS", num_together)
    monkeypatch.setattr(shuffle, "NUM_STEPS", num_together)
    for num_rows in (1, 2, 63, 64, 65, 5000):
        expected = shuffled(num_rows, 42)
        np.testing.assert_array_equal(follow_back(swaps_of(num_rows, 42), 100), expected[:100])


def test_the_beginning_of_the_published_order() -> None:
    assert first_shuffled(12_000_000, 42, 3).tolist() == [1285355, 2333178, 8678115]


def test_a_numpy_that_shuffles_in_another_way_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def backwards(num_rows: int, seed: int) -> np.ndarray:
        return shuffled(num_rows, seed)[::-1]

    shuffle._is_numpys.cache_clear()
    monkeypatch.setattr(shuffle, "shuffled", backwards)
    try:
        np.testing.assert_array_equal(first_shuffled(50, 3, 10), backwards(50, 3)[:10])
    finally:
        shuffle._is_numpys.cache_clear()
