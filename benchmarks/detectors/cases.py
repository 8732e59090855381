"""The runs of the bench: sizes, healthy recipes, and failures with what must be said about them, and how soon.

A run with an even seed belongs to the half on which the detectors were tuned, one with an odd seed to the half on which
they are judged.
"""

from dataclasses import dataclass
from enum import Enum

from benchmarks.detectors import damage
from benchmarks.detectors.damage import Injury

INTERVAL, BREAKS, INJURED_STEPS = 10, 100, 220


@dataclass(frozen=True)
class Size:
    """A model and its batch."""

    hidden: int
    layers: int
    heads: int
    length: int
    rows: int
    initializer_range: float
    start_layer: int = 1


SIZES = {
    "small": Size(32, 3, 2, 48, 8, 0.1),
    "medium": Size(64, 4, 4, 96, 4, 0.02),
    "long": Size(48, 3, 3, 256, 2, 0.05),
}


class Scope(Enum):
    """Where a failure is."""

    head = "head"
    layer = "layer"
    model = "model"


@dataclass(frozen=True)
class Failure:
    """What is damaged from step BREAKS on."""

    injury: Injury
    scope: Scope
    soon: int
    """Readings from the first after the damage within which it must be said."""


@dataclass(frozen=True)
class Case:
    """One run."""

    name: str
    seed: int
    size: str
    lr: float
    steps: int
    schedule: str = "decay"
    """decay (to zero), constant, or warm (a tenth of the steps, then decay)."""
    failure: str | None = None
    layer: int = 1
    head: int = 0

    @property
    def is_tuning(self) -> bool:
        """Whether it belongs to the half on which the detectors were tuned."""
        return self.seed % 2 == 0


FAILURES = {
    "gradient of a head lost at its positions": Failure(
        damage.position_gradient(lambda dz, head: damage.of_head(dz, head, 0.0)), Scope.head, 3
    ),
    "gradient of a head lost at its row": Failure(
        damage.map_gradient("final", lambda g, head: damage.of_row(g, head, 0.0)), Scope.head, 3
    ),
    "head cut off from the gradient": Failure(damage.output(damage.detached_head), Scope.head, 3),
    "gradient of a head 1e-4 of itself": Failure(
        damage.position_gradient(lambda dz, head: damage.of_head(dz, head, 1e-4)), Scope.head, 3
    ),
    "gradient of a layer lost": Failure(damage.position_gradient(lambda dz, _: 0 * dz), Scope.layer, 3),
    "gradient of W_g lost": Failure(damage.map_gradient("gate", lambda g, _: 0 * g), Scope.layer, 3),
    "gradient of W_c 1e-4 of itself": Failure(damage.map_gradient("content", lambda g, _: 1e-4 * g), Scope.layer, 3),
    "wrong sign of the gradient": Failure(damage.position_gradient(lambda dz, _: -dz), Scope.layer, 3),
    "wrong sign at W_z": Failure(damage.map_gradient("final", lambda g, _: -g), Scope.layer, 3),
    "wrong sign of a head": Failure(
        damage.position_gradient(lambda dz, head: damage.of_head(dz, head, -1.0)), Scope.head, 3
    ),
    "constant offset before the meter": Failure(damage.position_gradient(damage.offset), Scope.layer, 3),
    "constant offset after the meter": Failure(damage.later_gradient(damage.offset), Scope.layer, 3),
    "gradient in another order of tokens": Failure(damage.position_gradient(damage.permuted), Scope.layer, 3),
    "gradient replaced by noise": Failure(damage.position_gradient(damage.noise), Scope.layer, 3),
    "gradient a hundred times too large": Failure(damage.position_gradient(lambda dz, _: 100 * dz), Scope.layer, 3),
    "all heads the mean of the heads": Failure(damage.output(damage.mixed), Scope.layer, 3),
    "all heads the same head": Failure(damage.output(damage.copied), Scope.layer, 3),
    "rows of W_z kept equal": Failure(Injury(repeat=damage.mean_rows), Scope.layer, 3),
    "positions in a random order": Failure(damage.output(damage.permuted), Scope.layer, 3),
    "positions of the next token": Failure(damage.output(lambda z, _: z.roll(-1, 1)), Scope.layer, 3),
    "positions are the index": Failure(damage.output(damage.index), Scope.model, 3),
    "NaN in a head": Failure(damage.output(damage.not_a_number), Scope.head, 1),
    "NaN in a row of W_z": Failure(damage.scaled_map(float("nan"), one_head=True, once=True), Scope.head, 1),
    "a head constant": Failure(damage.output(damage.constant), Scope.head, 3),
    "W_z of a head zero": Failure(damage.scaled_map(0.0, one_head=True), Scope.head, 3),
    "W_z 0.7 a step": Failure(damage.scaled_map(0.7), Scope.layer, 3),
    "W_z 2 % less a step": Failure(damage.scaled_map(0.98), Scope.layer, 6),
    "W_z 1 % less a step": Failure(damage.scaled_map(0.99), Scope.layer, 8),
    "W_z 0.5 % less a step": Failure(damage.scaled_map(0.995), Scope.layer, 12),
    "W_z of a head 2 % less a step": Failure(damage.scaled_map(0.98, one_head=True), Scope.head, 6),
    "W_z of a head 1 % less a step": Failure(damage.scaled_map(0.99, one_head=True), Scope.head, 8),
    "a head 3 % more a step": Failure(damage.scaled_map(1.03, one_head=True), Scope.head, 8),
    "a head 10 % more a step": Failure(damage.scaled_map(1.1, one_head=True), Scope.head, 4),
    "a layer 3 % more a step": Failure(damage.scaled_map(1.03), Scope.layer, 8),
    "a head 300 times as wide": Failure(damage.scaled_map(300.0, one_head=True, once=True), Scope.head, 3),
    "a layer 100 times as wide": Failure(damage.scaled_map(100.0, once=True), Scope.layer, 3),
    "positions 2^21 from zero": Failure(damage.output(lambda z, _: z + 2.0**21), Scope.layer, 3),
    "rate of the maps a thousand times too high": Failure(Injury(rate_factor=1000.0), Scope.model, 3),
}


def healthy() -> list[Case]:
    """Returns the healthy runs: rates by sizes by schedules, 240 to 2,000 steps."""
    cases = []
    schedules = ("decay", "constant", "warm")
    for number, (size, lr) in enumerate((size, lr) for size in SIZES for lr in (3e-4, 1e-3, 3e-3, 1e-2)):
        for repeat in range(4 if lr >= 3e-3 else 3):
            seed = 10 * number + repeat
            steps, schedule = (240, 300, 480, 360)[repeat], schedules[(number + repeat) % 3]
            cases.append(Case(f"healthy {size} {lr:g} {seed}", seed, size, lr, steps, schedule))
    for seed, (size, lr, steps) in enumerate(
        [("small", 3e-3, 2000), ("small", 1e-2, 2000), ("long", 1e-2, 1000), ("medium", 3e-3, 1000)], 500
    ):
        cases.append(Case(f"healthy {size} {lr:g} {seed}", seed, size, lr, steps, schedules[seed // 2 % 2]))
    return cases


def injured() -> list[Case]:
    """Returns two runs per failure, one in each half: other sizes, layers, heads and rates.

    Runs with the same seed are the same up to the damage.
    """
    cases = []
    for number, name in enumerate(FAILURES):
        for half in (0, 1):
            size = ("medium", "small", "long")[(number + half) % 3]
            lr = (1e-3, 3e-3)[number // 3 % 2]
            seed = 1000 + 2 * ((number + half) % 3 + 3 * (number // 3 % 2)) + half
            layer = 1 + (number + half) % (SIZES[size].layers - 1)
            head = (number + 2 * half) % SIZES[size].heads
            full = f"{name} {'b' if half else 'a'}"
            cases.append(Case(full, seed, size, lr, INJURED_STEPS, "decay", name, layer, head))
    return cases
