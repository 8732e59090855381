"""The statistics against tables, hand-made cases, and synthetic data whose truth is known."""

import math

import numpy as np
import pytest

from evaluate.replicate.statistics import bootstrap, estimate, holm, t_interval, t_quantile, t_test, two_sided_p


@pytest.mark.parametrize(("degrees", "t"), [(1, 12.706), (2, 4.303), (4, 2.776), (7, 2.365), (9, 2.262), (30, 2.042)])
def test_quantiles_of_t_are_those_of_the_tables(degrees: int, t: float) -> None:
    assert t_quantile(degrees) == pytest.approx(t, abs=5e-4)
    assert two_sided_p(t, degrees) == pytest.approx(0.05, abs=1e-4)


def test_two_sided_p_has_its_closed_forms() -> None:
    for t in (0.0, 0.3, 1.0, 5.0, 40.0):
        assert two_sided_p(t, 1) == pytest.approx(1 - 2 / math.pi * math.atan(t), abs=1e-6)
        assert two_sided_p(t, 2) == pytest.approx(1 - t / math.sqrt(2 + t * t), abs=1e-6)


def test_a_paired_difference_by_hand() -> None:
    """Means of seeds 0.1 and 0.3 in one cell, 0.3 and 0.5 in the other: 0.2 and 0.4 together."""
    first, second = np.array([[0.0, 0.2], [0.2, 0.4]]), np.array([[0.3, 0.3], [0.5, 0.5]])
    found = estimate([first, second], draws=2000)
    assert found.mean == pytest.approx(0.3) and found.by_seed == pytest.approx([0.2, 0.4])
    assert (found.t_low, found.t_high) == pytest.approx((0.3 - 12.706 * 0.1, 0.3 + 12.706 * 0.1), abs=1e-3)
    assert found.p == pytest.approx(1 - 2 / math.pi * math.atan(3.0), abs=1e-5)  # t = 0.3 / 0.1, one degree
    assert 0.15 <= found.low < 0.3 < found.high <= 0.45


def test_one_seed_has_no_interval_over_seeds() -> None:
    found = estimate([np.array([[0.0, 1.0, 1.0, 0.0]])], draws=500)
    assert math.isnan(found.p) and math.isnan(found.t_low) and found.low < 0.5 < found.high


def test_seeds_that_agree_have_no_spread() -> None:
    assert t_test([0.0, 0.0]) == 1.0 and t_test([0.2, 0.2]) == 0.0
    assert t_interval([0.2, 0.2]) == (0.2, 0.2)


def test_differences_that_are_all_the_same_are_no_certainty() -> None:
    """20 samples, which seeds share: with 95 % confidence at most 13.9 % of others give another difference."""
    found = estimate([np.zeros((3, 20)), np.zeros((3, 30))], draws=50)
    assert (found.low, found.high) == pytest.approx((-0.139, 0.139), abs=5e-4)
    assert math.isnan(found.t_low) and math.isnan(found.t_high) and found.p == 1.0
    whole = estimate([np.ones((3, 20))], draws=50)
    assert (whole.low, whole.high) == pytest.approx((1 - 2 * 0.139, 1.0), abs=1e-3)


@pytest.mark.parametrize(("seed_sd", "num_seeds", "least"), [(0.1, 12, 0.84), (0.0, 12, 0.95)])
def test_the_bootstrap_covers_the_truth(seed_sd: float, num_seeds: int, least: float) -> None:
    """Of 100 synthetic comparisons with a known mean.

    A percentile interval of few seeds covers a little too seldom; where seeds do not differ, a little too often.
    """
    generator, covered = np.random.default_rng(5), 0
    for number in range(100):
        seeds = 0.05 + seed_sd * generator.standard_normal((num_seeds, 1))
        low, high = bootstrap([seeds + 0.3 * generator.standard_normal((num_seeds, 20))], 300, number)
        covered += low <= 0.05 <= high
    assert least <= covered / 100 <= (0.99 if seed_sd else 1.0)


def test_seeds_make_the_interval_wide_however_many_samples_there_are() -> None:
    cell = np.repeat([[-0.2], [0.2], [-0.1], [0.1]], 500, axis=1)
    low, high = bootstrap([cell], 2000)
    assert low < -0.1 and high > 0.1


def test_holm_is_that_of_the_literature() -> None:
    """p.adjust(c(0.01, 0.04, 0.03, 0.005), "holm") of R."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_what_has_no_p_is_not_counted() -> None:
    first, unknown, last = holm([0.01, math.nan, 0.04])
    assert (first, last) == pytest.approx((0.02, 0.04)) and math.isnan(unknown)
