"""Means over samples with their standard errors."""

import math
from collections.abc import Sequence
from dataclasses import dataclass


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


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Returns a Markdown table."""
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head), *(f"| {' | '.join(row)} |" for row in rows)]
    return "\n".join(lines) + "\n"
