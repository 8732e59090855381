"""What W&B gets of a step: one number per panel, in a section per statistic, with histograms and heat maps.

The numbers of a layer's heads become their mean, lowest and highest, in a section per statistic
(`positions_std/layer_05_mean`). All heads are in a histogram at every reading, and in heat maps every
`wandb.picture_interval` steps; probe texts are curves. Validation losses by source and by position in the row have a
section each (`eval_source_loss/NAME`, `eval_position_loss/FROM-TO`).
"""

import logging
import math
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from report.metrics import BUCKET_LOSS, SOURCE_LOSS, SOURCE_PERPLEXITY, STEP, Family, MetricTable, Scope
from report.probes import read_probes

PICTURED = ("std", "range", "mean", "rank_correlation", "resolution", "similarity")
SECTIONS = {
    family: Family(f"eval_{what}_{family.metric.name}/", "", family.metric)
    for family, what in ((SOURCE_LOSS, "source"), (SOURCE_PERPLEXITY, "source"), (BUCKET_LOSS, "position"))
}
"""The panels of metrics whose names hold a key: a section each, with a panel per key."""
LARGEST = 1e30  # number in a histogram: NumPy cannot make bins of larger ones

Metrics = Mapping[str, Any]

logger = logging.getLogger(__name__)


class Panels:
    """Rows for W&B from metrics, with heat maps every `picture_interval` steps.

    The colors of the heat maps depend on `sequence_length` and on the number of rotary frequencies.
    """

    def __init__(
        self, table: MetricTable, *, picture_interval: int, sequence_length: int, num_frequencies: int
    ) -> None:
        self._table = table
        self._interval = picture_interval
        self._limits = color_limits(sequence_length, num_frequencies)
        self._next_picture = 0  # step

    def of(self, metrics: Metrics) -> dict[str, Any]:
        """Returns what to log at the step of these metrics."""
        panels = {**scalars(metrics, self._table), **histograms(metrics, self._table)}
        if metrics[STEP] >= self._next_picture and (pictures := heat_maps(metrics, self._table, self._limits)):
            panels.update(pictures)
            self._next_picture = metrics[STEP] + self._interval
        return panels


def scalars(metrics: Metrics, table: MetricTable) -> dict[str, float]:
    """Returns numbers by panel; of a list, the mean, the lowest and the highest of its finite numbers."""
    flat: dict[str, float] = {}
    for name, value in metrics.items():
        panel = panel_name(name, table)
        if isinstance(value, list):
            known = [number for number in value if number is not None and math.isfinite(number)]
            heads = {"mean": sum(known) / len(known), "min": min(known), "max": max(known)} if known else {}
            flat.update({f"{panel}_{what}": number for what, number in heads.items()})
        elif name != STEP and value is not None:
            flat[panel] = value
    return flat


def panel_name(name: str, table: MetricTable) -> str:
    """Returns SECTION/PANEL for a metric; its name where the table does not know it or it has no section of its own."""
    entry = table.find(name)
    if entry is None:
        return name
    if entry.layer is not None:
        return f"positions_{entry.metric.name}/layer_{entry.layer:02d}"
    keys = ((section, family.key(name)) for family, section in SECTIONS.items())
    return next((section.name(key) for section, key in keys if key is not None), name)


class PanelTable:
    """Finds the metrics that panels show as they are: `panel_name`, undone."""

    def __init__(self, table: MetricTable) -> None:
        self._table = table
        self._names = {panel_name(name, table): name for name in table.names()}

    def metric(self, panel: str) -> str | None:
        """Returns the metric that a panel shows; None if it shows what is made of one, or none of ours."""
        if panel in self._names:
            return self._names[panel]
        keys = ((family, section.key(panel)) for family, section in SECTIONS.items())
        name = next((family.name(key) for family, key in keys if key is not None), panel)
        return name if self._table.find(name) is not None else None


def head_arrays(metrics: Metrics, table: MetricTable) -> tuple[list[int], dict[str, np.ndarray]]:
    """Returns the layers, and [L, H] by name for each statistic with heads in every layer; None becomes NaN."""
    found: dict[str, dict[int, list[float | None]]] = {}
    for name, value in metrics.items():
        entry = table.find(name)
        if entry and entry.metric.scope is Scope.head and entry.layer is not None and isinstance(value, list) and value:
            found.setdefault(entry.metric.name, {})[entry.layer] = value
    layers = sorted({layer for of_layers in found.values() for layer in of_layers})
    whole = {name: of_layers for name, of_layers in found.items() if len(of_layers) == len(layers)}
    return layers, {
        name: np.array([of_layers[layer] for layer in layers], np.float64) for name, of_layers in whole.items()
    }


def histograms(metrics: Metrics, table: MetricTable) -> dict[str, Any]:
    """Returns a histogram over all heads of each statistic."""
    import wandb

    known = {name: values[np.isfinite(values)] for name, values in head_arrays(metrics, table)[1].items()}
    return made(
        {
            f"positions_{name}/heads": partial(wandb.Histogram, values.clip(-LARGEST, LARGEST))
            for name, values in known.items()
            if values.size
        }
    )


def color_limits(sequence_length: int, num_frequencies: int) -> dict[str, tuple[float, float]]:
    """Returns the range of colors of each heat map: fixed, so that pictures of all steps and runs can be compared.

    Positions reach as far as RoPE's, the sequence length; the color of the smallest spread is that of a collapse.
    """
    spreads, length = (1e-3, float(sequence_length)), float(sequence_length)
    limits = {"std": spreads, "range": spreads, "mean": (-length, length)}
    return {**limits, "rank_correlation": (-1, 1), "resolution": (0, num_frequencies), "similarity": (0, 1)}


def heat_maps(metrics: Metrics, table: MetricTable, limits: dict[str, tuple[float, float]]) -> dict[str, Any]:
    """Returns images of the main statistics, layers by heads; numbers beyond the limits have the limits' colors."""
    import wandb

    from report.pictures import heat_map  # matplotlib takes half a second to import

    layers, arrays = head_arrays(metrics, table)

    def picture(name: str) -> Any:
        values_lh = arrays[name].clip(*limits[name])
        return wandb.Image(heat_map(values_lh, layers, f"{name}, step {metrics[STEP]}", limits[name]))

    return made({f"positions_pictures/{name}": partial(picture, name) for name in PICTURED if name in arrays})


def probe_pictures(step: int, path: Path) -> dict[str, Any]:
    """Returns an image of z against the token index for each probe text in a file; empty if it cannot be read."""
    import wandb

    from report.pictures import probe_curves

    probes = read_probes(step, path)
    if probes is None:
        return {}

    def picture(text: str) -> Any:
        return wandb.Image(probe_curves(probes, text))

    return made({f"probes/{text}": partial(picture, text) for text in probes.z})


def made(makers: dict[str, Callable[[], Any]]) -> dict[str, Any]:
    """Returns what the makers return, without those that raise: numbers that cannot be drawn must not cost the row."""
    results = {}
    for name, make in makers.items():
        try:
            results[name] = make()
        except Exception as error:  # of any kind, from three libraries
            logger.warning("W&B gets no %s of this step: %s", name, error)
    return results
