"""What W&B shows of a step, as panels that a person can find their way among.

Numbers of heads become each layer's mean, lowest and highest, in a section per statistic
(`positions_std/layer_05_mean`), not a panel per head. All heads are in a histogram at every reading, and in heat maps
now and then; probe texts are curves.
"""

import logging
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from train.config import RunConfig
from train.report.reading import LAYER_METRIC
from train.watch.probes import read_probes

PICTURED = ("std", "range", "mean", "rank_correlation", "resolution", "similarity")
LARGEST = 1e30  # number that a histogram counts: what goes beyond cannot be put into bins

logger = logging.getLogger(__name__)


class Panels:
    """Rows for W&B from metrics, with heat maps among them every `wandb.picture_interval` steps."""

    def __init__(self, config: RunConfig) -> None:
        self._interval = config.wandb.picture_interval
        self._limits = color_limits(config.sequence_length, config.model.head_dim // 2)
        self._due = 0

    def of(self, metrics: dict[str, Any]) -> dict[str, Any]:
        """What to log at the step of these metrics."""
        panels = {**scalars(metrics), **histograms(metrics)}
        if metrics["step"] >= self._due and (pictures := heat_maps(metrics, self._limits)):
            panels.update(pictures)
            self._due = metrics["step"] + self._interval
        return panels


def scalars(metrics: dict[str, Any]) -> dict[str, float]:
    """Numbers by panel: those of a layer under their statistic, of its finite heads mean, lowest and highest."""
    flat: dict[str, float] = {}
    for name, value in metrics.items():
        match = LAYER_METRIC.fullmatch(name)
        panel = f"positions_{match[2].replace('/', '_')}/layer_{match[1]}" if match else name
        if isinstance(value, list):
            known = [number for number in value if number is not None and math.isfinite(number)]
            heads = {"mean": sum(known) / len(known), "min": min(known), "max": max(known)} if known else {}
            flat.update({f"{panel}_{what}": number for what, number in heads.items()})
        elif name != "step" and value is not None:
            flat[panel] = value
    return flat


def head_arrays(metrics: dict[str, Any]) -> tuple[list[int], dict[str, np.ndarray]]:
    """The layers, and [L, H] by name, of the statistics with heads in every layer; NaN for a None among them."""
    found: dict[str, dict[int, list[float | None]]] = {}
    for name, value in metrics.items():
        if (match := LAYER_METRIC.fullmatch(name)) and isinstance(value, list) and value:
            found.setdefault(match[2], {})[int(match[1])] = value
    layers = sorted({layer for of_layers in found.values() for layer in of_layers})
    whole = {name: of_layers for name, of_layers in found.items() if len(of_layers) == len(layers)}
    return layers, {
        name: np.array([of_layers[layer] for layer in layers], np.float64) for name, of_layers in whole.items()
    }


def histograms(metrics: dict[str, Any]) -> dict[str, Any]:
    """A histogram over all heads of each statistic."""
    import wandb

    known = {name: values[np.isfinite(values)] for name, values in head_arrays(metrics)[1].items()}
    return drawn(
        {
            f"positions_{name}/heads": partial(wandb.Histogram, values.clip(-LARGEST, LARGEST))
            for name, values in known.items()
            if values.size
        }
    )


def color_limits(sequence_length: int, num_frequencies: int) -> dict[str, tuple[float, float]]:
    """What the colors of each heat map go from and to: fixed, so that those of all steps and runs can be compared.

    Positions go up to the length, as far as RoPE's; spreads begin where they cannot be told from a collapse.
    """
    spreads, length = (1e-3, float(sequence_length)), float(sequence_length)
    limits = {"std": spreads, "range": spreads, "mean": (-length, length)}
    return {**limits, "rank_correlation": (-1, 1), "resolution": (0, num_frequencies), "similarity": (0, 1)}


def heat_maps(metrics: dict[str, Any], limits: dict[str, tuple[float, float]]) -> dict[str, Any]:
    """Images of the main statistics, layers by heads; what lies beyond the limits has the colors of their ends."""
    import wandb

    from train.report.pictures import heat_map  # matplotlib takes half a second to import

    layers, arrays = head_arrays(metrics)

    def picture(name: str) -> Any:
        values_lh = arrays[name].clip(*limits[name])
        return wandb.Image(heat_map(values_lh, layers, f"{name}, step {metrics['step']}", limits[name]))

    return drawn({f"positions_pictures/{name}": partial(picture, name) for name in PICTURED if name in arrays})


def probe_pictures(step: int, path: Path) -> dict[str, Any]:
    """Images of z against the token index, one for each probe text."""
    import wandb

    from train.report.pictures import probe_curves

    probes = read_probes(step, path)
    if probes is None:
        return {}

    def picture(text: str) -> Any:
        return wandb.Image(probe_curves(probes, text))

    return drawn({f"probes/{text}": partial(picture, text) for text in probes.z})


def drawn(making: dict[str, Callable[[], Any]]) -> dict[str, Any]:
    """What could be made of these: numbers that cannot be drawn cost a picture, not the rows after it."""
    made = {}
    for name, make in making.items():
        try:
            made[name] = make()
        except Exception as error:  # of whatever kind, from three libraries
            logger.warning("W&B goes without %s of this step: %s", name, error)
    return made
