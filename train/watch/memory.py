"""What the detectors remember of earlier readings. Plain JSON in checkpoints, so keys of layers are strings."""

import math
from collections.abc import Collection
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import median

from report.metrics import GRADIENT, HEAD_GRADIENT, HEAD_NORM, map_signal
from train.watch.reading import Reading

NUM_RECENT = 3  # readings whose median gradient later ones are compared with
NUM_NORMS = 8  # readings whose row norms are kept
NUM_TREND, TREND = 3, 0.02  # changes of a row norm in one direction that make a trend, and the least of each
NUM_LOSSES = 10  # readings whose loss is kept
DEAD = 1e-3  # of the usual gradient norm
RESOLVED = 0.1  # spread that turns the fastest rotary frequency, one radian per position, by 0.1 rad
DOUBLED = 2.0  # times the spread from which an unchanged layer is counted: it has grown
MIN_RISE = 0.02  # of the usual loss: the least by which a worse one exceeds it
SIGMAS, SIGMAS_PER_MAD = 3.0, 1.4826  # a worse loss, in robust standard deviations


@dataclass
class Memory:
    """What the layers and heads showed earlier in the run."""

    still: dict[str, list[float]] = field(default_factory=dict)
    """Layer -> step and widest spread since which it has not doubled, and the number of readings since then."""
    last_spread: dict[str, list[float]] = field(default_factory=dict)
    """Layer -> spread of each head at the last reading."""
    held_spread: dict[str, list[float]] = field(default_factory=dict)
    """Layer -> of each head, the highest spread that two readings in a row reached."""
    was_seen: dict[str, bool] = field(default_factory=dict)
    """Layer -> whether the spread of one of its heads was ever above RESOLVED."""
    recent_gradients: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    """Layer -> map, or number of a head -> gradient norms of the last readings in which it was not dead."""
    norms: dict[str, list[list[float]]] = field(default_factory=dict)
    """Layer -> of each head, the row norms of the last NUM_NORMS readings, the newest last."""
    steps: list[int] = field(default_factory=list)
    """The steps of these readings."""
    held_norms: dict[str, list[float]] = field(default_factory=dict)
    """Layer -> of each head, the highest norm of its row."""
    losses: list[float] = field(default_factory=list)
    """The losses of the last NUM_LOSSES readings without a collapse or an explosion, the newest last."""
    num_readings: int = 0
    """Readings so far."""

    def add(self, reading: Reading, exploded: Collection[tuple[int, ...]], is_hurt: bool, warmup: int) -> None:
        """Adds a reading after its verdicts.

        The spread and norm of `exploded` heads (layer, head) do not count as held. A dead gradient, and that of their
        layer, is none of the usual ones; nor is the loss of a reading that `is_hurt`. Up to step `warmup` no layer
        counts as unchanged.
        """
        self.num_readings += 1
        self.steps = [*self.steps, reading.step][-NUM_NORMS:]
        if math.isfinite(reading.loss) and not is_hurt:
            self.losses = [*self.losses, reading.loss][-NUM_LOSSES:]
        for layer in reading.heads:
            key = str(layer)
            is_exploded = [(layer, head) in exploded for head in range(len(reading.heads[layer]["std"]))]
            spread = [0.0 if bad else w for bad, w in zip(is_exploded, reading.spreads(layer), strict=True)]
            last = self.last_spread.get(key, [0.0] * len(spread))
            held = self.held_spread.get(key, [0.0] * len(spread))
            self.held_spread[key] = [max(h, min(a, b)) for h, a, b in zip(held, last, spread, strict=True)]
            self.last_spread[key] = spread
            self._add_norms(key, reading.heads[layer][HEAD_NORM], is_exploded)
            widest = max(reading.spreads(layer))
            if reading.step > warmup:
                since, start, count = self.still.get(key, [reading.step, widest, 0])
                has_grown = widest > DOUBLED * start
                self.still[key] = [reading.step, widest, 1] if has_grown else [since, start, count + 1]
            self.was_seen[key] = self.was_seen.get(key, False) or widest > RESOLVED
            if not any(is_exploded):
                self._add_gradients(reading, layer)

    def _add_norms(self, key: str, norms: list[float], is_exploded: list[bool]) -> None:
        known = [norm if math.isfinite(norm) else 0.0 for norm in norms]
        earlier = self.norms.get(key, [[] for _ in known])
        self.norms[key] = [[*before, norm][-NUM_NORMS:] for before, norm in zip(earlier, known, strict=True)]
        held = self.held_norms.get(key, [0.0] * len(known))
        self.held_norms[key] = [
            h if bad else max(h, norm) for h, norm, bad in zip(held, known, is_exploded, strict=True)
        ]

    def _add_gradients(self, reading: Reading, layer: int) -> None:
        now = {name: reading.signals[layer][map_signal(name, GRADIENT)] for name in reading.maps[layer]}
        now |= {str(head): norm for head, norm in enumerate(reading.heads[layer][HEAD_GRADIENT])}
        recent = self.recent_gradients.setdefault(str(layer), {})
        for name, norm in now.items():
            if math.isfinite(norm) and not (name in recent and norm <= DEAD * self.usual_gradient(layer, name)):
                recent[name] = [*recent.get(name, []), norm][-NUM_RECENT:]

    def held(self, layer: int, head: int) -> float:
        """Returns the spread that a head is compared with; 0 if none is known yet."""
        return self.held_spread[str(layer)][head] if str(layer) in self.held_spread else 0.0

    def held_norm(self, layer: int, head: int) -> float:
        """Returns the row norm that a head is compared with; 0 if none is known yet."""
        return self.held_norms[str(layer)][head] if str(layer) in self.held_norms else 0.0

    def last_norms(self, layer: int, head: int) -> list[float]:
        """Returns the row norms of the last readings, the newest last."""
        return self.norms[str(layer)][head] if str(layer) in self.norms else []

    def start_of_trend(self, layer: int, head: int, norm: float) -> int | None:
        """Returns the step from which on the norm of a head's row has fallen, or risen, by TREND or more a reading.

        None if that is shorter than NUM_TREND readings.
        """
        norms = [*self.last_norms(layer, head), norm]
        length, is_rise = 0, norms[-1] > norms[-2:][0]
        for earlier, later in reversed(list(pairwise(norms))):
            low, high = (earlier, later) if is_rise else (later, earlier)
            if high * (1 - TREND) <= low:
                break
            length += 1
        return self.steps[1 - length] if length >= NUM_TREND else None

    def usual_gradient(self, layer: int, name: str) -> float:
        """Returns the gradient norm that a map, or a head, is compared with; 0 if none is known yet."""
        norms = self.recent_gradients.get(str(layer), {}).get(name)
        return median(norms) if norms else 0.0

    def is_worse(self, loss: float) -> bool:
        """Returns whether a loss is above what the last readings had, beyond their own changes."""
        if len(self.losses) < NUM_LOSSES // 2:
            return False
        usual = median(self.losses)
        spread = SIGMAS_PER_MAD * median(abs(earlier - usual) for earlier in self.losses)
        return not loss <= usual + max(SIGMAS * spread, MIN_RISE * abs(usual))  # a NaN is worse
