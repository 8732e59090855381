"""The runs of the bench: sizes, healthy recipes, and failures with what must be said about them, and how soon.

A run with an even seed belongs to the half on which the detectors were tuned, one with an odd seed to the half on which
they were judged first. Runs with seeds from FRESH on belong to neither: they came after the detectors were finished.
"""

from dataclasses import dataclass
from enum import Enum

from benchmarks.detectors import damage
from benchmarks.detectors.damage import Injury

INTERVAL = 10  # steps between readings
BREAKS, INJURED_READINGS = 10, 22  # readings until the damage begins, and until an injured run ends
FEW_READINGS = 19  # the latter of a run with more than INTERVAL steps between readings
FRESH = 5000  # the first seed of the runs that the detectors were never tuned on
AGAIN = 8000  # the first seed of those that came after what the fresh ones showed
LAST = 11000  # the first seed of those that came after two rules were changed: fading layers, layers below a wrong one
UPDATES = 14000  # the first seed of those that came after the update of a row was checked


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
    vocab_size: int = 256
    is_real: bool = False
    """Whether it reads real text: the one of `python -m data sample`."""


SIZES = {
    "small": Size(32, 3, 2, 48, 8, 0.1),
    "medium": Size(64, 4, 4, 96, 4, 0.02),
    "long": Size(48, 3, 3, 256, 2, 0.05),
    "wide": Size(128, 4, 4, 96, 4, 0.02),
    "real text": Size(128, 4, 4, 128, 4, 0.02, vocab_size=1024, is_real=True),
}


class Half(Enum):
    """What a run is for."""

    tuning = "tuning"
    judging = "judging"
    fresh = "fresh"
    again = "again"
    last = "last"
    updates = "updates"


class Scope(Enum):
    """Where a failure is."""

    head = "head"
    layer = "layer"
    model = "model"


@dataclass(frozen=True)
class Failure:
    """What is damaged from the reading BREAKS on."""

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
    interval: int = INTERVAL
    """Steps between readings."""

    @property
    def half(self) -> Half:
        """Returns what the run is for."""
        if self.seed >= LAST:
            return Half.updates if self.seed >= UPDATES else Half.last
        if self.seed >= FRESH:
            return Half.again if self.seed >= AGAIN else Half.fresh
        return Half.judging if self.seed % 2 else Half.tuning

    @property
    def breaks(self) -> int:
        """Returns the step at which an injured run is damaged."""
        return BREAKS * self.interval


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
WRITTEN = {  # failures that came with the check of updates, only in the runs for it
    "W_z of a head 0.5 % less a step": Failure(damage.scaled_map(0.995, one_head=True), Scope.head, 12),
    "W_z of a head 0.1 % less a step": Failure(damage.scaled_map(0.999, one_head=True), Scope.head, 12),
    "W_z 0.1 % more a step": Failure(damage.scaled_map(1.001), Scope.layer, 12),
    "W_z kept as it was": Failure(damage.kept_map(), Scope.layer, 12),
    "noise of 1 % in W_z": Failure(Injury(repeat=damage.noisy_map), Scope.layer, 12),
}
ALL_FAILURES = FAILURES | WRITTEN


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
            cases.append(Case(full, seed, size, lr, INJURED_READINGS * INTERVAL, "decay", name, layer, head))
    return cases


def fresh_healthy() -> list[Case]:
    """Returns healthy runs with other seeds: also of a wider model, on real text, and with long intervals."""
    cases = []
    schedules = ("decay", "constant", "warm")
    plans = [(size, lr, 300) for size in ("small", "medium", "long") for lr in (3e-4, 1e-3, 3e-3, 1e-2)]
    plans += [(size, lr, 360) for size in ("wide", "real text") for lr in (1e-3, 3e-3, 1e-2)]
    plans += [("small", 1e-2, 2000), ("long", 3e-3, 1000), ("wide", 1e-2, 800), ("real text", 1e-2, 800)]
    for seed, (size, lr, steps) in enumerate(plans, FRESH):
        cases.append(Case(f"fresh {size} {lr:g} {seed}", seed, size, lr, steps, schedules[seed % 3]))
    for seed, lr in enumerate((1e-3, 3e-3, 1e-2), FRESH + 100):
        cases.append(Case(f"fresh small {lr:g} {seed}", seed, "small", lr, 2500, schedules[seed % 3], interval=100))
    return cases


def fresh_injured() -> list[Case]:
    """Returns two more runs per failure, one of them on real text; every third has a run with long intervals, too."""
    cases = []
    for number, name in enumerate(FAILURES):
        kinds = [(("long", "medium", "small")[number % 3], INTERVAL), ("real text", INTERVAL)]
        kinds += [("small", 100)] * (number % 3 == 0)
        for kind, (size, interval) in enumerate(kinds):
            group = number // 3 % 2
            lr = (3e-3, 1e-3)[group]
            seed = FRESH + 1000 + 100 * kind + 10 * (number % 3) + group
            layer = 1 + number % (SIZES[size].layers - 1)
            head = (number + 1) % SIZES[size].heads
            steps = (INJURED_READINGS if interval == INTERVAL else FEW_READINGS) * interval
            full = f"fresh {name} {'abc'[kind]}"
            cases.append(Case(full, seed, size, lr, steps, "decay", name, layer, head, interval))
    return cases


def again() -> list[Case]:
    """Returns runs of the kind that the detectors were wrong about when they saw the fresh ones, with other seeds."""
    plans = [("real text", 1e-2, 360), ("real text", 1e-2, 600), ("real text", 5e-3, 360), ("wide", 1e-2, 360)]
    cases = [
        Case(f"again {size} {lr:g} {seed}", seed, size, lr, steps, ("decay", "constant", "warm")[seed % 3])
        for seed, (size, lr, steps) in enumerate(plans, AGAIN)
    ]
    of_gradients = [name for name in FAILURES if "sign" in name or "order" in name or "hundred" in name]
    for number, name in enumerate([*of_gradients, "gradient replaced by noise", "a head 10 % more a step"]):
        for lr, seed in ((1e-3, AGAIN + 1001), (3e-3, AGAIN + 1002)):
            layer, head, steps = 1 + number % 3, number % 4, INJURED_READINGS * INTERVAL
            cases.append(Case(f"again {name} {lr:g}", seed, "real text", lr, steps, "decay", name, layer, head))
    return cases


def last() -> list[Case]:
    """Returns new runs for the rules that changed last: in the highest layer, maps that fade or grow and gradients that
    are wrong; and healthy ones, long or at high rates.
    """
    plans = [(size, lr, steps) for steps in (300, 700) for size in ("small", "medium", "long") for lr in (3e-3, 1e-2)]
    plans += [("small", 1e-2, 1500), ("small", 2e-2, 500), ("medium", 5e-3, 1000), ("wide", 1e-2, 300)]
    plans += [("long", 2e-3, 400), ("small", 5e-3, 1500), ("real text", 3e-3, 240), ("real text", 5e-3, 240)]
    healthy = [
        Case(f"last {size} {lr:g} {seed}", seed, size, lr, steps, ("decay", "constant", "warm")[seed % 3])
        for seed, (size, lr, steps) in enumerate(plans, LAST)
    ]
    words = ("W_z", "more a step", "sign", "order", "noise", "hundred", "offset", "wide")
    names = [name for name in FAILURES if any(word in name for word in words)]
    injured = []
    for number, name in enumerate(names):
        size, lr = ("small", "medium")[number % 2], (1e-3, 3e-3)[number // 2 % 2]
        layer, head, steps = SIZES[size].layers - 1, number % 2, INJURED_READINGS * INTERVAL
        seed = LAST + 1000 + number % 4
        injured.append(Case(f"last {name}", seed, size, lr, steps, "decay", name, layer, head))
    fades = [
        (name, size)
        for name in ("W_z 0.5 % less a step", "W_z 1 % less a step", "W_z 2 % less a step")
        for size in ("small", "medium", "long")
    ]
    for number, (name, size) in enumerate(fades):  # after the rule of fading layers had changed once more
        lr, steps = (2e-3, 1e-3, 3e-3)[number // 3], INJURED_READINGS * INTERVAL
        injured.append(
            Case(f"last {name} {size}", LAST + 2000 + number, size, lr, steps, "decay", name, 1 + number % 2)
        )
    return [*injured, *healthy]


def updates() -> list[Case]:
    """Returns new runs for the check of updates: maps that something else writes to, and healthy ones at high rates."""
    sizes = ("small", "medium", "long")
    plans = [(size, lr, steps) for steps in (240, 480) for size in sizes for lr in (3e-3, 1e-2)]
    plans += [("small", 1e-2, steps) for steps in (2000, 1500, 1000, 700)]
    plans += [("medium", 1e-2, 1000), ("long", 1e-2, 700), ("small", 3e-3, 2000), ("small", 3e-3, 1000)]
    plans += [("long", 3e-3, 700), ("small", 2e-2, 500), ("wide", 1e-2, 300), ("real text", 3e-3, 240)]
    healthy = [
        Case(f"updates {size} {lr:g} {seed}", seed, size, lr, steps, ("decay", "constant", "warm")[seed % 3])
        for seed, (size, lr, steps) in enumerate(plans, UPDATES)
    ]
    names = [name for name in ALL_FAILURES if "less a step" in name or name in WRITTEN]
    names += ["W_z 0.7 a step", "W_z of a head zero", "a head 3 % more a step", "a layer 3 % more a step"]
    injured = []
    for number, name in enumerate(names):
        for repeat in (0, 1):
            size, lr = sizes[(number + repeat) % 3], (3e-3, 1e-2)[repeat]
            layer, head = 1 + number % (SIZES[size].layers - 1), number % 2
            seed, steps = UPDATES + 1000 + 10 * (number % 3) + repeat, INJURED_READINGS * INTERVAL
            injured.append(Case(f"updates {name} {lr:g}", seed, size, lr, steps, "decay", name, layer, head))
    return [*injured, *healthy]


def all_cases() -> list[Case]:
    """Returns all runs."""
    return [*healthy(), *injured(), *fresh_healthy(), *fresh_injured(), *again(), *last(), *updates()]
