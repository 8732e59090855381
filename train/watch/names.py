"""What the figures of a reading are called: names in metrics.jsonl, labels, units and meanings for people.

`statistics.py` and `signal.py` define them. Without torch, so that a report is written in a moment.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Statistic:
    """What a figure is called and what it means."""

    label: str
    unit: str
    meaning: str


STATISTICS: dict[str, Statistic] = {
    "mean": Statistic("mean", "positions", "where a head puts its tokens on average"),
    "std": Statistic("spread", "positions", "how far apart a head puts its tokens; near zero: it tells none apart"),
    "min": Statistic("minimum", "positions", "the lowest position of a sequence"),
    "max": Statistic("maximum", "positions", "the highest position of a sequence"),
    "range": Statistic("range", "positions", "highest minus lowest, the paper's d; RoPE's would be the length"),
    "q01": Statistic("1 % quantile", "positions", "all but the lowest hundredth of the tokens lie above"),
    "q50": Statistic("median", "positions", "half of the tokens lie above"),
    "q99": Statistic("99 % quantile", "positions", "all but the highest hundredth of the tokens lie below"),
    "negative_share": Statistic("negative", "share", "tokens with a position below zero"),
    "step_mean": Statistic("mean step", "positions", "from a token to the next; RoPE's is 1"),
    "step_std": Statistic("spread of steps", "positions", "how uneven the steps are; RoPE's is 0"),
    "forward_share": Statistic("forward", "share", "steps that go up; RoPE's is 1"),
    "rank_correlation": Statistic("order", "correlation", "with the token index, by rank; 1: RoPE's order"),
    "constant_share": Statistic("constant chunks", "share", "16-token chunks on a plateau: locally NoPE"),
    "monotone_share": Statistic("monotone chunks", "share", "16-token chunks that only rise or only fall"),
    "hybrid_share": Statistic("hybrid chunks", "share", "16-token chunks that are neither constant nor monotone"),
    "resolution": Statistic("resolution", "frequencies", "rotary frequencies that see the range; 0: acts as NoPE"),
    "similarity": Statistic("similarity", "correlation", "with the other heads of the layer; 1: all do the same"),
}
"""Statistics per head, in the order in which `weighted_sums` adds them up."""

MAPS = {"gate": "W_g", "content": "W_c", "final": "W_z"}

SIGNALS: dict[str, Statistic] = {
    **{f"{name}_norm": Statistic(f"norm of {w}", "", f"Euclidean norm of {w}") for name, w in MAPS.items()},
    **{
        f"{name}_grad_norm": Statistic(f"gradient of {w}", "", f"norm of {w}'s gradient, before clipping")
        for name, w in MAPS.items()
    },
    **{
        f"{name}_update_ratio": Statistic(f"update of {w}", "share", f"norm of a step's change of {w} over its norm")
        for name, w in MAPS.items()
    },
    "gradient_share": Statistic("share of the gradient", "share", "norm of the maps' gradients over the model's"),
    "gradient_residual": Statistic("residual", "share", "what is left of the sum of dz over a row, which should be 0"),
}
"""Figures per layer, in the order of `signal_values`."""
