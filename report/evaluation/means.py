"""Means over samples with their standard errors."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

NO_SPREAD = 1e-9  # a standard error below it is one of rounding


@dataclass(frozen=True)
class Mean:
    """A mean over samples."""

    value: float
    error: float
    """The standard error: standard deviation (n - 1) / sqrt(n); not a number for one sample."""

    @classmethod
    def of(cls, values: Sequence[float]) -> "Mean":
        """Returns the mean of at least one value."""
        count = len(values)
        mean = math.fsum(values) / count
        if count == 1:
            return cls(mean, math.nan)
        return cls(mean, math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (count - 1) / count))

    def written(self, digits: int) -> str:
        """Returns the mean, with its error if there is one."""
        error = "" if math.isnan(self.error) else f" \u00b1 {self.error:.{digits}f}"
        return f"{self.value:.{digits}f}{error}"


def are_alike(mean: Mean, count: int) -> bool:
    """Returns whether all samples have the same value, so that the standard error is 0 or there is none."""
    return count == 1 or mean.error < NO_SPREAD


def range_of_alike(value: float, count: int, lowest: float = 0.0) -> tuple[float, float]:
    """Returns the range in which the mean is with 95 % confidence if `count` samples all have this value.

    Values lie between `lowest` and 100. Samples of this value have a share p with p ** count >= 0.05, all others may
    lie anywhere: at 0 and 100 this is the exact one-sided bound of Clopper and Pearson, about 3 / count.
    """
    share = 0.05 ** (1 / count)
    return share * value + (1 - share) * lowest, share * value + (1 - share) * 100


def written_percent(mean: Mean, count: int, digits: int, lowest: float = 0.0) -> str:
    """Returns a mean in percent with its error; where all samples are alike, with `range_of_alike` instead."""
    if not are_alike(mean, count):
        return mean.written(digits)
    low, high = range_of_alike(mean.value, count, lowest)
    return f"{mean.value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Returns a Markdown table."""
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head), *(f"| {' | '.join(row)} |" for row in rows)]
    return "\n".join(lines) + "\n"
