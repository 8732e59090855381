"""The beginning of what numpy shuffles, without the rest: 512 of 12.6 million numbers in a third of the time of all.

numpy's `Generator.shuffle` swaps places s and j for each s from the last down to 1. Of PCG64 it takes 32-bit draws, the
lower half of each word first, masked to the bits of s, until one is at most s: that is j. Below, all j are found many
draws at a time; then each of the first places is followed through the swaps, from the last swap to the first, back to
where its number lay in the beginning.

How numpy shuffles is not part of its interface. So each process compares one shuffle before it relies on this.
"""

from functools import cache

import numpy as np

NUM_DRAWS = 1 << 16  # looked at together
NUM_STEPS = 1 << 14  # followed together
NUM_COMPARED = 1000


def shuffled(num_rows: int, seed: int) -> np.ndarray:
    """Returns the numbers below `num_rows` as numpy's PCG64 of this seed shuffles them: uint32 `[num_rows]`."""
    order = np.arange(num_rows, dtype=np.uint32)
    np.random.Generator(np.random.PCG64(seed)).shuffle(order)
    return order


def first_shuffled(num_rows: int, seed: int, num_first: int) -> np.ndarray:
    """Returns the first `num_first` of the same, or all if they are fewer: uint32."""
    if not _is_numpys():
        return shuffled(num_rows, seed)[:num_first]
    return follow_back(swaps_of(num_rows, seed), num_first)


def swaps_of(num_rows: int, seed: int) -> np.ndarray:
    """Returns the place that each place is swapped with, from the last place to place 1: uint32 `[num_rows]`."""
    bits = np.random.PCG64(seed)
    swaps = np.zeros(num_rows, np.uint32)
    step, draws = num_rows - 1, np.empty(0, np.uint32)
    while step > 0:
        mask = (1 << step.bit_length()) - 1
        num_steps = step - mask // 2  # that have this mask
        if not len(draws):
            draws = bits.random_raw(NUM_DRAWS // 2).astype("<u8", copy=False).view("<u4")
        masked = draws[: 2 * num_steps + 64] & np.uint32(mask)
        taken = _accepted(masked, step)[:num_steps]
        draws = draws[taken[-1] + 1 if len(taken) == num_steps else len(masked) :]
        swaps[step - len(taken) + 1 : step + 1] = masked.take(taken)[::-1]
        step -= len(taken)
    return swaps


def _accepted(draws: np.ndarray, step: int) -> np.ndarray:
    """Returns the indices of the draws that are accepted, where the first is of this step: int64.

    A draw is accepted if it is at most `step` less the number of those accepted before it. Which of those near `step`
    are refused for this is found by repetition: each makes at least one more of them, from the first on, final.
    """
    is_accepted = draws <= step
    possible = np.flatnonzero(is_accepted)
    values = draws.take(possible)
    near = np.flatnonzero(values > max(0, step - len(possible)))
    excess = values.take(near).astype(np.int64) + near - step
    refused = excess > 0
    while not np.array_equal(refused, again := excess > np.cumsum(refused) - refused):
        refused = again
    is_accepted[possible[near[refused]]] = False
    return np.flatnonzero(is_accepted)


def follow_back(swaps: np.ndarray, num_first: int) -> np.ndarray:
    """Returns what lies in the first places after swaps of numbers that lay in order: uint32."""
    num_rows = len(swaps)
    num_first = min(num_first, num_rows)
    found = {place: place for place in range(num_first)}  # where it lay before the swaps followed so far -> place
    is_followed = np.zeros(num_rows, bool)
    is_followed[:num_first] = True
    start = 1
    while start < num_rows:
        stop = min(num_rows, max(num_first, start + NUM_STEPS))
        others = swaps[start:stop]
        is_followed[start:stop] = True  # a place may get there by one of these swaps
        steps = np.flatnonzero(is_followed.take(others))
        is_followed[start:stop] = False
        for step, other in zip((start + steps).tolist(), others.take(steps).tolist(), strict=True):
            if step not in found and other not in found:
                continue
            here, there = found.pop(step, None), found.pop(other, None)
            for place, lay in ((here, other), (there, step)):
                if place is not None:
                    found[lay], is_followed[lay] = place, True
        start = stop
    first = np.empty(num_first, np.uint32)
    first[list(found.values())] = list(found)
    return first


@cache
def _is_numpys() -> bool:
    """Returns whether numpy shuffles as it did when this was written."""
    first = follow_back(swaps_of(NUM_COMPARED, 0), NUM_COMPARED)
    return np.array_equal(first, shuffled(NUM_COMPARED, 0))
