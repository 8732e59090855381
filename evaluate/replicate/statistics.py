"""Statistics of paired comparisons over seeds: a two-level bootstrap, Student's t, and Holm's correction.

A comparison is a list with an array for each cell (a task at a length), [seeds, samples]: the score of one scheme minus
that of the other, on the same samples after the same backbone and the same data. Its value is the mean over cells of
the mean over seeds and samples. Seeds and samples both vary, so the bootstrap draws seeds, and samples within each.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from report.evaluation.means import range_of_alike

LEVEL = 0.95
DRAWS_AT_ONCE = 500


@dataclass(frozen=True)
class Estimate:
    """A mean difference."""

    mean: float
    by_seed: list[float]
    low: float
    high: float
    """Ends of the interval by the bootstrap, at LEVEL; of `range_of_alike` if all differences are alike."""
    t_low: float
    t_high: float
    """Ends of Student's interval over the means of seeds; not numbers with one seed, or differences all alike."""
    p: float
    """Two-sided, of Student's test over the means of seeds; not a number with one seed."""


def estimate(cells: Sequence[np.ndarray], draws: int, seed: int = 0) -> Estimate:
    """Returns the mean of a comparison with its intervals; `cells` have the same number of seeds."""
    by_seed = np.mean([cell.mean(axis=1) for cell in cells], axis=0)
    if all((cell == cells[0].flat[0]).all() for cell in cells):  # drawn again, they would have no spread either
        count = min(cell.shape[1] for cell in cells)  # of samples, which seeds share
        low, high = (end / 100 for end in range_of_alike(100 * float(by_seed.mean()), count, lowest=-100.0))
        t_low, t_high = math.nan, math.nan
    else:
        low, high = bootstrap(cells, draws, seed)
        t_low, t_high = t_interval(by_seed.tolist())
    return Estimate(float(by_seed.mean()), by_seed.tolist(), low, high, t_low, t_high, t_test(by_seed.tolist()))


def bootstrap(cells: Sequence[np.ndarray], draws: int, seed: int = 0) -> tuple[float, float]:
    """Returns the percentile interval of the mean: seeds are drawn, the same for all cells, then samples in each."""
    generator = np.random.default_rng(seed)
    num_seeds = len(cells[0])
    means = []
    for first in range(0, draws, DRAWS_AT_ONCE):
        count = min(DRAWS_AT_ONCE, draws - first)
        chosen_ds = generator.integers(num_seeds, size=(count, num_seeds))
        total_d = np.zeros(count)
        for cell in cells:
            num_samples = cell.shape[1]
            samples_dsn = generator.integers(num_samples, size=(count, num_seeds, num_samples))
            total_d += cell[chosen_ds[..., None], samples_dsn].mean(axis=(1, 2))
        means.append(total_d / len(cells))
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(np.concatenate(means), [tail, 1 - tail])
    return float(low), float(high)


def t_test(values: Sequence[float]) -> float:
    """Returns the two-sided p of a mean of zero; not a number for one value."""
    if len(values) < 2:
        return math.nan
    mean, error = _mean_and_error(values)
    if error == 0:
        return 1.0 if mean == 0 else 0.0
    return two_sided_p(mean / error, len(values) - 1)


def t_interval(values: Sequence[float]) -> tuple[float, float]:
    """Returns Student's interval of the mean at LEVEL; not numbers for one value."""
    if len(values) < 2:
        return math.nan, math.nan
    mean, error = _mean_and_error(values)
    half = t_quantile(len(values) - 1) * error
    return mean - half, mean + half


def t_quantile(degrees: int) -> float:
    """Returns the t that a share 1 - LEVEL exceeds in size."""
    low, high = 0.0, 1000.0
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if two_sided_p(middle, degrees) > 1 - LEVEL else (low, middle)
    return low


def two_sided_p(t: float, degrees: int) -> float:
    """Returns the probability that Student's t is at least as large in size: a regularised incomplete beta function."""
    return _incomplete_beta(degrees / (degrees + t * t), degrees / 2)


def _incomplete_beta(x: float, a: float, num_intervals: int = 4000) -> float:
    """Returns I_x(a, 1/2), by Simpson's rule.

    With u = sin(phi)^2 the density u^(a-1) (1-u)^(-1/2) du becomes 2 sin(phi)^(2a-1) dphi.
    """

    def integral(end: float) -> float:
        phi = np.linspace(0.0, end, num_intervals + 1)
        values = np.sin(phi) ** (2 * a - 1)
        weights = np.ones(num_intervals + 1)
        weights[1:-1:2], weights[2:-1:2] = 4, 2
        return float((values * weights).sum() * end / num_intervals / 3)

    return integral(math.asin(math.sqrt(x))) / integral(math.pi / 2)


def holm(p: Sequence[float]) -> list[float]:
    """Returns p corrected for their number (Holm 1979): the least level at which each would be rejected.

    What is not a number stays so, and is not counted.
    """
    known = sorted((value, index) for index, value in enumerate(p) if not math.isnan(value))
    corrected = [math.nan] * len(p)
    largest = 0.0
    for rank, (value, index) in enumerate(known):
        largest = max(largest, min(1.0, (len(known) - rank) * value))
        corrected[index] = largest
    return corrected


def _mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    count = len(values)
    mean = math.fsum(values) / count
    return mean, math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (count - 1) / count)
