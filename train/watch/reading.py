"""One reading of the position watch: plain numbers, as they stand in metrics.jsonl."""

from dataclasses import dataclass
from typing import Any

from train.watch.names import STATISTICS


@dataclass(frozen=True)
class Reading:
    """The figures of one step, over the global batch."""

    step: int
    heads: dict[int, dict[str, list[float]]]
    """Layer -> name of STATISTICS -> one number per head."""
    signals: dict[int, dict[str, float]]
    """Layer -> name of SIGNALS -> number."""

    def spreads(self, layer: int) -> list[float]:
        """How far apart each head puts all but the outermost hundredths of its tokens: one far token does not count."""
        values = self.heads[layer]
        return [high - low for low, high in zip(values["q01"], values["q99"], strict=True)]

    def metrics(self) -> dict[str, Any]:
        """`positions/layer_LL/NAME` of every figure, and `positions/NAME`, the mean over all heads of all layers."""
        named: dict[str, Any] = {}
        for layer, values in self.heads.items():
            for name, value in {**values, **self.signals[layer]}.items():
                named[f"positions/layer_{layer:02d}/{name}"] = value
        for name in STATISTICS:
            all_heads = [number for values in self.heads.values() for number in values[name]]
            named[f"positions/{name}"] = sum(all_heads) / len(all_heads)
        return named
