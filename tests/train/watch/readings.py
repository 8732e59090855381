"""Readings of the position watch, made by hand: what is usual, and changes of it."""

from collections.abc import Callable

from report.metrics import HEAD_SIGNALS, STATISTICS, signals
from train.watch.alert import Alert
from train.watch.detectors import Detectors
from train.watch.reading import Reading

LENGTH, LAYERS, NUM_HEADS = 1000, (5, 6, 7), 4
MAPS = {"gate": "W_g", "content": "W_c", "final": "W_z"}
Change = Callable[[Reading], None]


def reading(step: int, *changes: Change) -> Reading:
    """Positions a few units apart, maps that learn, and `changes`."""
    usual = dict.fromkeys(STATISTICS, 0.5) | {"std": 2.0, "min": -4.0, "max": 6.0, "range": 10.0, "resolution": 9.0}
    usual |= {"q01": -3.0, "q99": 5.0}
    usual |= dict.fromkeys(HEAD_SIGNALS, 0.01) | {"update_error": 1e-7}
    heads = {layer: {name: [value] * NUM_HEADS for name, value in usual.items()} for layer in LAYERS}
    signal = dict.fromkeys(signals(MAPS), 0.01) | {"gradient_slope": 1.0}
    made = Reading(step, heads, {layer: dict(signal) for layer in LAYERS}, dict.fromkeys(LAYERS, MAPS), 3.0)
    for change in changes:
        change(made)
    return made


def set_heads(layers: tuple[int, ...] = LAYERS, heads: tuple[int, ...] = (0, 1, 2, 3), /, **values: float) -> Change:
    def change(reading: Reading) -> None:
        for layer in layers:
            for name, value in values.items():
                for head in heads:
                    reading.heads[layer][name][head] = value

    return change


def worse(reading: Reading) -> None:
    """The loss is above the usual one."""
    object.__setattr__(reading, "loss", 3.2)


def scaled_rows(layer: int, heads: tuple[int, ...], factor: float) -> Change:
    """Rows whose norms change by `factor` a reading, from reading 10 on."""

    def change(reading: Reading) -> None:
        for head in heads:
            reading.heads[layer]["head_norm"][head] *= factor ** max(0, reading.step // 100 - 10)

    return change


def set_signal(layers: tuple[int, ...] = LAYERS, /, **values: float) -> Change:
    def change(reading: Reading) -> None:
        for layer in layers:
            reading.signals[layer].update(values)

    return change


def alerts_of(*runs: tuple[int, tuple[Change, ...]]) -> list[tuple[int, Alert]]:
    """(number of the reading, alert) over stretches of (how many readings, how they differ); a hundred steps apart."""
    detectors, found, number = Detectors(LENGTH), [], 0
    for count, changes in runs:
        for _ in range(count):
            number += 1
            found += [(number, alert) for alert in detectors.observe(reading(100 * number, *changes))]
    return found


USUAL = (5, ())
COLLAPSED = {"std": 0.01, "min": 1.0, "max": 1.085, "range": 0.085, "resolution": 0.0, "q01": 1.0, "q99": 1.085}
EXPLODED = {"range": 2001.0, "max": 1997.0, "std": 300.0, "q01": -3.0, "q99": 1500.0}
FRESH = {"std": 0.01, "min": -0.02, "max": 0.02, "range": 0.04, "resolution": 0.0, "q01": -0.018, "q99": 0.018}
