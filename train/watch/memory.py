"""What the places of a model showed earlier in the run: what the detectors hold them against."""

import math
from collections.abc import Collection
from dataclasses import dataclass, field
from statistics import median

from train.watch.names import MAPS
from train.watch.reading import Reading

GROWN = 2.0  # times the spread at which a layer has begun to be still: it is not, but growing
NUM_FIRST = 3  # readings whose median gradient is what later ones are held against


@dataclass
class Memory:
    """Plain JSON all through, hence layers as strings."""

    still: dict[str, list[float]] = field(default_factory=dict)  # layer -> step, spread, readings since
    last_spread: dict[str, list[float]] = field(default_factory=dict)  # layer -> spread of each head
    held_spread: dict[str, list[float]] = field(default_factory=dict)  # the highest that two readings in a row reached
    was_seen: dict[str, bool] = field(default_factory=dict)  # layer -> whether a frequency ever saw one of its heads
    first_gradients: dict[str, dict[str, list[float]]] = field(default_factory=dict)  # layer -> map -> norms

    def add(
        self, reading: Reading, seen: float, dead: float, unsound: Collection[tuple[int, ...]], warmup: int
    ) -> None:
        """Take in a reading after it has been judged.

        `seen` is the spread from which a head is seen, `dead` the share of the first gradients below which there is
        none: it is nothing to hold later ones against. The spread of `unsound` heads (layer, head) is nothing to go
        back to: it does not count. Up to step `warmup` no layer is still.
        """
        for layer in reading.heads:
            key = str(layer)
            spread = [0.0 if (layer, head) in unsound else width for head, width in enumerate(reading.spreads(layer))]
            last = self.last_spread.get(key, [0.0] * len(spread))
            held = self.held_spread.get(key, [0.0] * len(spread))
            self.held_spread[key] = [max(h, min(a, b)) for h, a, b in zip(held, last, spread, strict=True)]
            self.last_spread[key] = spread
            if reading.step > warmup:
                widest = max(reading.spreads(layer))
                since, start, count = self.still.get(key, [reading.step, widest, 0])
                grows = widest > GROWN * start
                self.still[key] = [reading.step, widest, 1] if grows else [since, start, count + 1]
            self.was_seen[key] = self.was_seen.get(key, False) or max(reading.spreads(layer)) > seen
            gradients = self.first_gradients.setdefault(key, {name: [] for name in MAPS})
            for name, norms in gradients.items():
                norm = reading.signals[layer][f"{name}_grad_norm"]
                is_dead = len(norms) > 0 and norm < dead * median(norms)
                if len(norms) < NUM_FIRST and math.isfinite(norm) and not is_dead:
                    norms.append(norm)

    def held(self, layer: int, head: int) -> float:
        """The spread that a head is held against; 0 if nothing is known yet."""
        return self.held_spread[str(layer)][head] if str(layer) in self.held_spread else 0.0

    def first_gradient(self, layer: int, name: str) -> float:
        """The gradient norm that a map is held against; 0 if nothing is known yet."""
        norms = self.first_gradients.get(str(layer), {}).get(name)
        return median(norms) if norms else 0.0
