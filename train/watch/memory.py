"""What the places of a model showed earlier in the run: what the detectors hold them against."""

import math
from collections.abc import Collection
from dataclasses import dataclass, field
from statistics import median

from train.watch.names import MAPS
from train.watch.reading import Reading

NUM_FIRST = 3  # readings whose median gradient is what later ones are held against


@dataclass
class Memory:
    """Plain JSON all through, hence layers as strings."""

    num_readings: int = 0
    last_spread: dict[str, list[float]] = field(default_factory=dict)  # layer -> std of each head
    held_spread: dict[str, list[float]] = field(default_factory=dict)  # the highest that two readings in a row reached
    was_seen: dict[str, bool] = field(default_factory=dict)  # layer -> whether a frequency ever saw one of its heads
    first_gradients: dict[str, dict[str, list[float]]] = field(default_factory=dict)  # layer -> map -> norms

    def add(self, reading: Reading, seen: float, unsound: Collection[tuple[int, ...]]) -> None:
        """Take in a reading after it has been judged.

        `seen` is the resolution from which a head is seen. The spread of `unsound` heads (layer, head) is nothing to go
        back to: it does not count.
        """
        self.num_readings += 1
        for layer, values in reading.heads.items():
            key = str(layer)
            spread = [0.0 if (layer, head) in unsound else std for head, std in enumerate(values["std"])]
            last = self.last_spread.get(key, [0.0] * len(spread))
            held = self.held_spread.get(key, [0.0] * len(spread))
            self.held_spread[key] = [max(h, min(a, b)) for h, a, b in zip(held, last, spread, strict=True)]
            self.last_spread[key] = spread
            self.was_seen[key] = self.was_seen.get(key, False) or max(values["resolution"]) >= seen
            gradients = self.first_gradients.setdefault(key, {name: [] for name in MAPS})
            for name, norms in gradients.items():
                norm = reading.signals[layer][f"{name}_grad_norm"]
                if len(norms) < NUM_FIRST and math.isfinite(norm):
                    norms.append(norm)

    def held(self, layer: int, head: int) -> float:
        """The spread that a head is held against; 0 if nothing is known yet."""
        return self.held_spread[str(layer)][head] if str(layer) in self.held_spread else 0.0

    def first_gradient(self, layer: int, name: str) -> float:
        """The gradient norm that a map is held against; 0 if nothing is known yet."""
        norms = self.first_gradients.get(str(layer), {}).get(name)
        return median(norms) if norms else 0.0
