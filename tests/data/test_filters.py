"""The repetition filter against a plain reading of the published rule."""

import numpy as np
import pytest

from data.config import RepetitionFilterConfig
from data.filters import is_repetitive

RULE = RepetitionFilterConfig()


def is_repetitive_plainly(row: list[int], rule: RepetitionFilterConfig) -> bool:
    """Is there a start and a period from which `max_count` copies of a pattern follow each other?"""
    for period in range(rule.min_period, rule.max_period + 1):
        for start in range(len(row) - rule.max_count * period + 1):
            if row[start : start + period] * rule.max_count == row[start : start + period * rule.max_count]:
                return True
    return False


@pytest.mark.parametrize("seed", range(4))
def test_agrees_with_the_plain_rule(seed: int) -> None:
    rng = np.random.default_rng(seed)
    outcomes = []
    for _ in range(60):
        row = rng.integers(0, 3, 256)
        period, count = int(rng.integers(1, 9)), int(rng.integers(4, 9))
        run = np.tile(rng.integers(0, 3, period), count + 1)[: period * count + int(rng.integers(0, period))]
        start = int(rng.integers(0, len(row) - len(run) + 1))
        row[start : start + len(run)] = run
        rule = RepetitionFilterConfig(min_period=int(rng.integers(1, 3)), max_period=6, max_count=6)
        outcomes.append(is_repetitive(row, rule))
        assert outcomes[-1] == is_repetitive_plainly(row.tolist(), rule)
    assert 10 < sum(outcomes) < 50


@pytest.mark.parametrize(("count", "masked"), [(31, False), (32, True)])
@pytest.mark.parametrize("period", [1, 2, 13])
def test_thirty_two_repetitions_are_too_many(period: int, count: int, masked: bool) -> None:
    row = np.arange(1000, 2000, dtype=np.uint32)
    row[100 : 100 + period * count] = np.tile(np.arange(period), count)
    assert is_repetitive(row, RULE) is masked


def test_longer_periods_and_a_disabled_filter_mask_nothing() -> None:
    assert not is_repetitive(np.tile(np.arange(14), 50), RULE)
    assert not is_repetitive(np.zeros(4096), RepetitionFilterConfig(enabled=False))
