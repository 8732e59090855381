"""One reading of the position watch: the numbers of one step, as they are in metrics.jsonl."""

import math
from dataclasses import dataclass
from typing import Any

from report.metrics import STATISTICS, layer_metric, positions_metric


@dataclass(frozen=True)
class Reading:
    """The figures of one step, over the global batch."""

    step: int
    heads: dict[int, dict[str, list[float]]]
    """Layer -> name of STATISTICS or HEAD_SIGNALS -> one number per head."""
    signals: dict[int, dict[str, float]]
    """Layer -> name of a training signal -> number."""
    maps: dict[int, dict[str, str]]
    """Layer -> name of each of its maps -> symbol."""
    loss: float = math.nan
    """Cross entropy per valid token of the batch, before the update."""
    deviations: frozenset[int] = frozenset()
    """The layers whose positions are deviations from the index."""

    def spreads(self, layer: int) -> list[float]:
        """Returns q99 - q01 of each head: the extent of its positions without the outermost 2 % of the tokens."""
        values = self.heads[layer]
        return [high - low for low, high in zip(values["q01"], values["q99"], strict=True)]

    def metrics(self) -> dict[str, Any]:
        """Returns every figure by its name in metrics.jsonl, and each statistic's mean over all heads of all layers."""
        named: dict[str, Any] = {}
        for layer, values in self.heads.items():
            known = {name: value for name, value in self.signals[layer].items() if not math.isnan(value)}
            for name, value in {**values, **known}.items():
                named[layer_metric(layer, name)] = value
        for name in STATISTICS:
            all_heads = [number for values in self.heads.values() for number in values[name]]
            named[positions_metric(name)] = sum(all_heads) / len(all_heads)
        return named
