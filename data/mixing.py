"""Which source the next row comes from: stride scheduling, with no random numbers and so nothing to save but counts.

Source i is due its n-th row (from 0) at time (n + phase) / weight, and whoever is due first goes next. All rows are
equally long, so shares of rows are shares of tokens. Per stream, the count of source i is off its exact share by less
than 1 + weight_i * max(sum of phases, num_sources - sum of phases). Phases differ between streams such that each
source's are spread evenly over them: one batch, across all streams, is then close to the shares already.

Source: Waldspurger and Weihl, "Stride scheduling" (MIT, 1995).
"""

from collections.abc import Sequence

import numpy as np

from data.order import permutation


def stream_phases(num_streams: int, num_sources: int, seed: int) -> np.ndarray:
    """Phases in (0, 1): float64 `[num_streams, num_sources]`; each column holds (s + 1/2) / S once for every s."""
    columns = [permutation(num_streams, seed, "phase", source) for source in range(num_sources)]
    return (np.stack(columns, axis=1) + 0.5) / num_streams


def next_source(counts: Sequence[int], phases: Sequence[float], weights: Sequence[float]) -> int:
    """The source that is due first, given the rows each has had; ties go to the first."""
    return min(range(len(counts)), key=lambda i: (counts[i] + phases[i]) / weights[i])
