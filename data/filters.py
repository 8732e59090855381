"""The repetition filter of the published run: rows that repeat a short pattern many times are masked out of the loss.

The published rule (OLMo's `instance_filter`) rejects a row in which some run of period p, min_period <= p <=
max_period, holds `max_count` or more whole repetitions. A run of n repetitions of period p is a stretch of n * p
tokens in which each equals the one p before it, except in the first period: (n - 1) * p equalities in a row. The code
searches for those.
"""

import numpy as np

from data.config import RepetitionFilterConfig


def is_repetitive(row: np.ndarray, rule: RepetitionFilterConfig) -> bool:
    """Returns whether the rule masks this row of tokens `[T]`."""
    return rule.enabled and any(
        _has_run(row[period:] == row[:-period], (rule.max_count - 1) * period)
        for period in range(rule.min_period, min(rule.max_period, len(row) - 1) + 1)
    )


def _has_run(matches: np.ndarray, length: int) -> bool:
    # Nearly all rows have too few matches for any run, and counting takes a tenth of the time of searching.
    return int(np.count_nonzero(matches)) >= length and _longest_run(matches) >= length


def _longest_run(matches: np.ndarray) -> int:
    breaks = np.flatnonzero(~matches)
    if not len(breaks):
        return len(matches)
    return int(max(breaks[0], np.diff(breaks).max(initial=1) - 1, len(matches) - 1 - breaks[-1]))
