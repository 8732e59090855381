"""What each detector says of one reading: of each place, whether it is bad, well, or neither.

A reading is compared with what the same head or layer showed earlier in the run (memory.py). The detectors, and which
failure explains which, are described in detectors.py.
"""

import math
from itertools import pairwise

from report.metrics import (
    GRADIENT,
    GRADIENT_ERROR,
    GRADIENT_RESIDUAL,
    GRADIENT_SHARE,
    GRADIENT_SLOPE,
    HEAD_GRADIENT,
    HEAD_NORM,
    NORM,
    POSITION_ERROR,
    UPDATE,
    UPDATE_ERROR,
    map_signal,
)
from train.watch.alert import Place
from train.watch.memory import DEAD, DOUBLED, RESOLVED, Memory
from train.watch.reading import Reading

Verdicts = dict[Place, bool | None]
"""True: bad; False: well; None: neither, or not known."""

UNCHANGED_READINGS, UNCHANGED_STEPS = 20, 1000  # after which a layer whose spread has not doubled does not learn
COLLAPSED, RESTORED = 0.1, 0.2  # of the spread that a head has held
VANISHED = 1e-4  # of the same: a collapse, whatever the loss does
VANISHED_ROW = 0.01  # of the highest norm of a head's row, likewise
FLAT = 0.95  # constant_share of a head whose neighbours share a position
EXPLODED, CONTAINED = 2.0, 1.0  # range, in sequence lengths
WIDE = 20.0  # range, in sequence lengths, of a head that has held no spread yet
JUMPED, LARGE = 20.0, 0.25  # times the spread that a head has held, with a range of so many sequence lengths
OUTGROWN = 3.0  # times the highest norm of a head's row so far, from one reading to the next
REGROWN = 1.5  # times the highest norm that counts, from which a row is not well
NUM_RISES, RISE, FASTER = 3, 1.2, 1.1  # readings in a row, each with a norm and an increase of it so many times larger
NUM_FRESH = 3  # readings in which the rows of fresh maps may jump
NUM_EARLY = 8  # readings in which the rows of fresh maps may grow so fast
COARSE = 2.0**20  # |z| from which float32 positions are 1/8 apart
LIKE_INDEX, UNLIKE_INDEX = 0.95, 0.9  # |rank correlation|
ALIVE = 1e-2  # of the usual gradient norm
LARGE_UPDATE, MODERATE_UPDATE = 0.5, 0.25  # of a map's norm, in one step
LARGE_SHARE, MODERATE_SHARE = 0.9, 0.7  # of the model's gradient norm
SLOPES = (0.8, 1.25)  # gradient_slope of a gradient that is the loss's
WRONG_ERROR, RIGHT_ERROR = 0.3, 0.1  # gradient_error of a head
WRONG_UPDATE, RIGHT_UPDATE = 1e-4, 1e-5  # update_error of a head, which rounding makes 1e-7
WRONG_RESIDUAL, RIGHT_RESIDUAL = 0.2, 0.1  # gradient_residual of a layer
WRONG_POSITIONS, RIGHT_POSITIONS = 0.3, 0.1  # position_error of a layer
SAME, DIFFERENT = 0.99999, 0.999  # similarity of all heads of a layer


def lowest_not_finite(reading: Reading) -> int | None:
    """Returns the lowest layer with a head whose positions are not finite: it makes those above so too."""
    return next((layer for layer in sorted(reading.heads) if any(not_finite_heads(layer, reading))), None)


def not_finite_heads(layer: int, reading: Reading) -> list[bool]:
    """Returns of each head whether its positions are not finite."""
    values = reading.heads[layer]
    return [not math.isfinite(high - low) for low, high in zip(values["min"], values["max"], strict=True)]


def is_collapsed(layer: int, head: int, reading: Reading, memory: Memory) -> bool | None:
    """Judges whether a head's positions are nearly equal.

    That a row becomes smaller is no failure by itself: training may want it, and the loss does not suffer then.

    Deviations that are equal leave RoPE, which the run began as: a failure only while the loss is worse.
    """
    if layer in reading.deviations and not memory.is_worse(reading.loss):
        return False
    spread, flat = reading.spreads(layer)[head], reading.heads[layer]["constant_share"][head]
    norm, held, held_norm = (
        reading.heads[layer][HEAD_NORM][head],
        memory.held(layer, head),
        memory.held_norm(layer, head),
    )
    is_harmful = is_wrong_update(layer, head, reading) or memory.is_worse(reading.loss)
    if norm < VANISHED_ROW * held_norm or (norm < COLLAPSED * held_norm and is_harmful):
        return True
    is_equal = spread < RESOLVED or flat > FLAT
    if is_equal and (spread < VANISHED * held or (spread < COLLAPSED * held and memory.is_worse(reading.loss))):
        return True
    is_kept = not norm < RESTORED * held_norm
    return False if spread > RESTORED * held and spread > RESOLVED and is_kept else None


def is_exploded(layer: int, head: int, reading: Reading, memory: Memory, length: int) -> bool | None:
    """Judges whether a head's positions grow without bound, or lie beyond what float32 angles resolve."""
    values = reading.heads[layer]
    low, high, extent, order = (values[name][head] for name in ("min", "max", "range", "rank_correlation"))
    held = memory.held(layer, head)
    if not max(-low, high) <= COARSE or outgrows(layer, head, reading, memory):
        return True
    is_rope = abs(order) > LIKE_INDEX and extent <= CONTAINED * length
    if not held and extent > WIDE * length and not is_rope:
        return True  # it has never been any narrower: there is no usual loss to wait for
    has_jumped = 0 < JUMPED * held < reading.spreads(layer)[head] and extent > LARGE * length
    if (has_jumped or extent > EXPLODED * length) and not is_rope and memory.is_worse(reading.loss):
        return True
    is_near = max(-low, high) < COARSE / 2 and not has_jumped and (extent < CONTAINED * length or is_rope)
    return False if is_near and not values[HEAD_NORM][head] > REGROWN * memory.held_norm(layer, head) else None


def outgrows(layer: int, head: int, reading: Reading, memory: Memory) -> bool:
    """Returns whether the norm of a head's row grows as no optimizer makes it: faster and faster, or at one stroke."""
    norm, held = reading.heads[layer][HEAD_NORM][head], memory.held_norm(layer, head)
    if memory.num_readings >= NUM_FRESH and norm > JUMPED * held > 0:
        return True
    if memory.num_readings < NUM_EARLY:
        return False
    if norm > OUTGROWN * held > 0:
        return True
    norms = [*memory.last_norms(layer, head), norm][-NUM_RISES - 2 :]
    pairs = list(pairwise(norms))
    if len(pairs) <= NUM_RISES or not all(b > RISE * a for a, b in pairs[-NUM_RISES:]):
        return False
    rises = [b - a for a, b in pairs]
    return all(b > FASTER * a for a, b in pairwise(rises))


def is_rope(reading: Reading) -> bool | None:
    """Judges whether every head of every layer follows the token index; deviations that do only scale it."""
    layers = set(reading.heads).difference(reading.deviations)
    lowest = min((abs(r) for layer in layers for r in reading.heads[layer]["rank_correlation"]), default=0.0)
    return True if lowest > LIKE_INDEX else False if lowest < UNLIKE_INDEX else None


def is_dead(layer: int, reading: Reading, memory: Memory) -> bool | None:
    """Judges whether no gradient reaches one of a layer's maps."""
    norms = map_gradients(layer, reading, memory)
    if not all(math.isfinite(now) for _, now, _ in norms):
        return None
    if any(is_dead_norm(now, first) for _, now, first in norms):
        return True
    return False if all(now > ALIVE * first for _, now, first in norms) else None


def is_dead_head(layer: int, head: int, reading: Reading, memory: Memory) -> bool | None:
    """Judges whether no gradient reaches a head's row."""
    now, first = reading.heads[layer][HEAD_GRADIENT][head], memory.usual_gradient(layer, str(head))
    if not math.isfinite(now):
        return None
    return True if is_dead_norm(now, first) else False if now > ALIVE * first else None


def map_gradients(layer: int, reading: Reading, memory: Memory) -> list[tuple[str, float, float]]:
    """Returns each map of a layer with its gradient norm now, and the usual one.

    Where a map is zero, as at the start of some schemes, no gradient can reach the others, and only it is returned.
    """
    now = reading.signals[layer]
    zero = [name for name in reading.maps[layer] if now[map_signal(name, NORM)] == 0]
    judged = zero or reading.maps[layer]
    return [(name, now[map_signal(name, GRADIENT)], memory.usual_gradient(layer, name)) for name in judged]


def is_dead_norm(now: float, first: float) -> bool:
    """Returns whether a gradient norm is nothing beside the usual one."""
    return now == 0 or now < DEAD * first


def largest_update(layer: int, reading: Reading) -> float:
    """Returns the largest relative change of a layer's maps in one step."""
    return max(reading.signals[layer][map_signal(name, UPDATE)] for name in reading.maps[layer])


def is_unstable(layer: int, reading: Reading, memory: Memory) -> bool | None:
    """Judges whether an update changes too much of a map, or a layer's maps rule the gradient.

    The last map of deviations grows from zero: its first updates are large beside it, and are not judged.
    """
    is_growing = layer in reading.deviations and memory.num_readings < NUM_EARLY
    update = 0.0 if is_growing else largest_update(layer, reading)
    share = reading.signals[layer][GRADIENT_SHARE]
    if update > LARGE_UPDATE or share > LARGE_SHARE:
        return True
    return False if update < MODERATE_UPDATE and share < MODERATE_SHARE else None


def is_unchanged(layer: int, reading: Reading, memory: Memory) -> bool | None:
    """Judges whether a layer has not left its start."""
    widest = max(reading.spreads(layer))
    if memory.was_seen.get(str(layer)) or widest > RESOLVED:
        return False
    since, start, count = memory.still.get(str(layer), (reading.step, 0.0, 0))
    is_long = count >= UNCHANGED_READINGS and reading.step - since >= UNCHANGED_STEPS
    return True if is_long and widest <= DOUBLED * start else None


def is_wrong_gradient(layer: int, reading: Reading) -> bool | None:
    """Judges whether the gradient at a layer's positions is not that of the loss."""
    slope, residual = reading.signals[layer][GRADIENT_SLOPE], reading.signals[layer][GRADIENT_RESIDUAL]
    low, high = SLOPES
    if slope < low or slope > high or is_unbalanced(layer, reading):
        return True
    return False if residual < RIGHT_RESIDUAL else None


def is_unbalanced(layer: int, reading: Reading) -> bool:
    """Returns whether a layer's gradients do not add up to zero over a row, whatever comes from the layers above."""
    return reading.signals[layer][GRADIENT_RESIDUAL] > WRONG_RESIDUAL


def is_wrong_row(layer: int, head: int, reading: Reading) -> bool | None:
    """Judges whether the gradient of a head's row is not what its positions ask for."""
    error = reading.heads[layer][GRADIENT_ERROR][head]
    return True if error > WRONG_ERROR else False if error < RIGHT_ERROR else None


def is_wrong_update(layer: int, head: int, reading: Reading) -> bool | None:
    """Judges whether something other than the optimizer changes a head's row."""
    error = reading.heads[layer][UPDATE_ERROR][head]
    return True if error > WRONG_UPDATE else False if error < RIGHT_UPDATE else None


def is_misplaced(layer: int, reading: Reading) -> bool | None:
    """Judges whether a layer's positions depend on more than their token and those before it."""
    error = reading.signals[layer][POSITION_ERROR]
    return True if error > WRONG_POSITIONS else False if error < RIGHT_POSITIONS else None


def is_same(layer: int, reading: Reading) -> bool | None:
    """Judges whether all heads of a layer have the same positions, up to scale and shift."""
    similarity = reading.heads[layer]["similarity"]
    if len(similarity) < 2:
        return False
    return True if min(similarity) > SAME else False if min(similarity) < DIFFERENT else None
