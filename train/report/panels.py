"""What W&B shows of a step, as panels that a person can find their way among.

Numbers of heads become each layer's mean, lowest and highest, in a section per statistic
(`positions_std/layer_05_mean`), not a panel per head. All heads are in a histogram at every reading, and in heat maps
now and then; probe texts are curves.
"""

import math
from pathlib import Path
from typing import Any

import numpy as np

from train.report.reading import LAYER_METRIC
from train.watch.probes import read_probes

PICTURED = ("std", "range", "mean", "rank_correlation", "resolution", "similarity")


class Panels:
    """Rows for W&B from metrics, with heat maps among them every `picture_interval` steps."""

    def __init__(self, picture_interval: int) -> None:
        self._interval = picture_interval
        self._due = 0

    def of(self, metrics: dict[str, Any]) -> dict[str, Any]:
        """What to log at the step of these metrics."""
        panels = {**scalars(metrics), **histograms(metrics)}
        if metrics["step"] >= self._due and (pictures := heat_maps(metrics)):
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
    return {f"positions_{name}/heads": wandb.Histogram(values) for name, values in known.items() if values.size}


def heat_maps(metrics: dict[str, Any]) -> dict[str, Any]:
    """Images of the main statistics, layers by heads."""
    import wandb

    from train.report.pictures import heat_map  # matplotlib takes half a second to import

    layers, arrays = head_arrays(metrics)
    return {
        f"positions_pictures/{name}": wandb.Image(heat_map(arrays[name], layers, f"{name}, step {metrics['step']}"))
        for name in PICTURED
        if name in arrays
    }


def probe_pictures(step: int, path: Path) -> dict[str, Any]:
    """Images of z against the token index, one for each probe text."""
    import wandb

    from train.report.pictures import probe_curves

    probes = read_probes(step, path)
    return {f"probes/{text}": wandb.Image(probe_curves(probes, text)) for text in probes.z} if probes else {}
