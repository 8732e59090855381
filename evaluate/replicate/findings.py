"""What was measured, compared with RoPE: plain data for the table and the page, and sentences on what it supports."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from common.json_lines import read_json_lines
from evaluate.replicate.config import BASELINE, ReplicateConfig
from evaluate.replicate.runs import Run
from evaluate.replicate.score import Scores, cell_name, read_scores
from evaluate.replicate.statistics import LEVEL, Estimate, estimate, holm
from report.metrics import positions_metric

METRIC = "accuracy"
SHOWN = ("std", "range", "resolution", "rank_correlation", "constant_share", "monotone_share", "hybrid_share")
PAPER = {
    "title": "1B parameters, 50B tokens, RULER's needles at 4,096 tokens, one seed, 100 samples each, %",
    "columns": ["S", "MV", "MK", "MQ", "mean"],
    "rows": {
        "rope": [100.0, 78.5, 86.0, 79.0, 85.9],
        "nope": [83.0, 83.3, 76.0, 78.5, 80.2],
        "r2n1": [100.0, 91.8, 82.0, 88.3, 90.5],
        "n2r1": [95.0, 89.8, 84.0, 84.3, 88.3],
        "repo": [100.0, 89.3, 86.0, 89.8, 91.3],
    },
}
"""arXiv 2512.14391, table 1."""


def findings(config: ReplicateConfig, runs: Sequence[Run], rates: Mapping[str, float], root: Path) -> dict[str, Any]:
    """Returns all figures of finished and scored runs, as plain data."""
    scores = {(run.scheme, run.seed): read_scores(scores_path(root, run)) for run in runs}
    cells = [(task, length) for task in config.corpus.tasks for length in config.probes.lengths]
    means = [
        {
            "task": task,
            "length": length,
            "scheme": scheme,
            "by_seed": [_mean(scores[scheme, seed], task, length, METRIC) for seed in config.seeds],
            "exact": [_mean(scores[scheme, seed], task, length, "exact") for seed in config.seeds],
            "nll": [_mean(scores[scheme, seed], task, length, "nll") for seed in config.seeds],
        }
        for task, length in cells
        for scheme in config.schemes
    ]
    primary, others = _comparisons(config, scores)
    return {
        "settings": json.loads(json.dumps(asdict(config), default=str)),
        "rates": dict(rates),
        "level": LEVEL,
        "metric": METRIC,
        "means": means,
        "primary": primary,
        "others": others,
        "positions": [_positions(run, root) for run in runs if run.scheme != BASELINE],
        "paper": PAPER,
        "sentences": sentences(primary, others, len(config.seeds)),
    }


def scores_path(root: Path, run: Run) -> Path:
    """Returns where the scores of a run are."""
    return root / "scores" / f"{run.name}.json"


def _mean(scores: Scores, task: str, length: int, metric: str) -> float:
    values = scores[cell_name(task, length)][metric]
    return math.fsum(values) / len(values)


def _comparisons(
    config: ReplicateConfig, scores: Mapping[tuple[str, int], Scores]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Returns the primary comparison, and all others with p corrected for their number."""

    def compared(scheme: str, task: str, lengths: Sequence[int]) -> dict[str, Any]:
        cells = []
        for length in lengths:
            name = cell_name(task, length)
            pairs = [
                (scores[scheme, seed][name][METRIC], scores[BASELINE, seed][name][METRIC]) for seed in config.seeds
            ]
            cells.append(np.array([np.subtract(own, base) for own, base in pairs]))
        found: Estimate = estimate(cells, config.draws)
        return {"scheme": scheme, "task": task, "lengths": list(lengths), **asdict(found)}

    primary = config.primary
    schemes = [scheme for scheme in config.schemes if scheme != BASELINE]
    named = {scheme: compared(scheme, primary.task, primary.lengths) for scheme in schemes}
    single = [
        compared(scheme, task, [length])
        for task in config.corpus.tasks
        for length in config.probes.lengths
        for scheme in schemes
        if (task, [length]) != (primary.task, list(primary.lengths))
    ]
    first = named.pop(primary.scheme)
    others = [*named.values(), *single]
    for each, p in zip(others, holm([each["p"] for each in others]), strict=True):
        each["p_holm"] = p
    return first, others


def _positions(run: Run, root: Path) -> dict[str, Any]:
    """Returns the last reading of a run's learned positions, and the alerts that it had."""
    rows = [row for row in read_json_lines(run.folder(root) / "metrics.jsonl") if positions_metric("std") in row]
    events = read_json_lines(run.folder(root) / "events.jsonl")
    alerts = sorted({str(event.get("kind")) for event in events if event.get("event") == "alert"})
    last = rows[-1] if rows else {}
    figures = {name: last[metric] for name in SHOWN if (metric := positions_metric(name)) in last}
    return {"scheme": run.scheme, "seed": run.seed, "figures": figures, "alerts": alerts}


def sentences(primary: Mapping[str, Any], others: Sequence[Mapping[str, Any]], num_seeds: int) -> list[str]:
    """Returns what the comparisons support and what they do not, in words; the primary one first."""
    said = [f"Primary comparison, named before the run: {_verdict(primary, primary['p'], num_seeds)}"]
    supported = [each for each in others if _is_supported(each, each["p_holm"])]
    said += [f"Also supported after Holm's correction: {_described(each)}." for each in supported]
    if others and not supported:
        said.append(f"None of the other comparisons ({len(others)}) is supported after Holm's correction.")
    elif others:
        said.append(f"Not supported: {len(others) - len(supported)} of the {len(others)} other comparisons.")
    if num_seeds < 5:
        said.append(
            f"{_seeds(num_seeds).capitalize()}: this cannot rank schemes, whatever the intervals are, since another "
            "seed may differ by more."
        )
    said.append(
        "Models of this size on made-up tasks say nothing of 1B parameters on text: only the order of schemes can be "
        "set beside the paper's, with its uncertainty."
    )
    return said


def _verdict(found: Mapping[str, Any], p: float, num_seeds: int) -> str:
    text = _described(found)
    if num_seeds == 1:
        return f"{text}. With one seed nothing is known of the spread between seeds, so nothing is supported."
    if _is_supported(found, p):
        word = "above" if found["mean"] > 0 else "below"
        return f"{text}. Supported: {found['scheme']} is {word} {BASELINE} here."
    ends = ("low", "high") if math.isnan(found["t_low"]) else ("t_low", "t_high")
    half = 100 * max(abs(found[end] - found["mean"]) for end in ends)
    return (
        f"{text}. Not supported: neither that {found['scheme']} is better nor that it is worse. A difference of less "
        f"than about {half:.1f} points cannot be seen with {_seeds(num_seeds)} here."
    )


def _is_supported(found: Mapping[str, Any], p: float) -> bool:
    """Returns whether the test and the bootstrap agree that there is a difference."""
    return p < 1 - LEVEL and (found["low"] > 0 or found["high"] < 0)


def _described(found: Mapping[str, Any]) -> str:
    lengths = ", ".join(map(str, found["lengths"]))
    p = "" if math.isnan(found["p"]) else f", p = {found['p']:.2g}"
    corrected = f" ({found['p_holm']:.2g} corrected)" if not math.isnan(found.get("p_holm", math.nan)) else ""
    return (
        f"{found['scheme']} - {BASELINE}, {found['task']} at {lengths} tokens: {100 * found['mean']:+.1f} points "
        f"[{100 * found['low']:+.1f}, {100 * found['high']:+.1f}]{p}{corrected}"
    )


def _seeds(count: int) -> str:
    return "one seed" if count == 1 else f"{count} seeds"


def chosen_rates(config: ReplicateConfig, runs: Sequence[Run], root: Path) -> dict[str, float]:
    """Returns the rate of each scheme: the lowest NLL of right answers at the length of training, over tuning seeds.

    Without tuning seeds, the first rate.
    """
    if not config.tuning.seeds:
        return dict.fromkeys(config.schemes, config.tuning.rates[0])
    length = max((each for each in config.probes.lengths if each <= config.corpus.row_length), default=None)
    length = config.probes.lengths[0] if length is None else length
    found: dict[tuple[str, float], list[float]] = {}
    for run in runs:
        scores = read_scores(scores_path(root, run))
        nll = [_mean(scores, task, length, "nll") for task in config.corpus.tasks]
        found.setdefault((run.scheme, run.rate), []).append(math.fsum(nll) / len(nll))
    return {
        scheme: min(config.tuning.rates, key=lambda rate: _worst_if_nan(math.fsum(found[scheme, rate])))
        for scheme in config.schemes
    }


def _worst_if_nan(value: float) -> float:
    return math.inf if math.isnan(value) else value
