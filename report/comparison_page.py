"""What the page of a comparison shows: tables, and for each metric a chart with a curve per run. Plain data."""

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from report.comparison import ComparedRun, Comparison
from report.comparison_table import run_cells, same_over_seeds, setting_cells, title
from report.metrics import (
    CE_LOSS,
    COLUMNS,
    EVAL_LOSS,
    GRAD_NORM,
    LEARNING_RATE,
    OPEN_ALERTS,
    RUN_METRICS,
    STATISTICS,
    STEP,
    TOKENS,
    TOKENS_PER_SECOND,
    Metric,
    MetricTable,
    positions_metric,
    probe_title,
)
from report.packing import curve
from report.run_folder import is_number

CHARTS = (EVAL_LOSS, CE_LOSS, GRAD_NORM, LEARNING_RATE, TOKENS_PER_SECOND, OPEN_ALERTS)


def comparison_data(comparison: Comparison, name: str) -> dict[str, Any]:
    """Returns the data of the page."""
    runs = sorted(comparison.runs, key=lambda run: run.name)  # so that a run keeps its color when the order changes
    means = {positions_metric(own): metric for own, metric in STATISTICS.items()}
    probes = _probes(runs)
    has_seeds = any(len(setting.runs) > 1 for setting in comparison.settings)
    tables = [run_cells(comparison), setting_cells(comparison) if has_seeds else []]
    headings = {heading for table in tables if table for heading in table[0]}
    return {
        "name": name,
        "written": time.strftime("%Y-%m-%d %H:%M"),
        "summary": " ".join([f"{len(runs)} runs {title(comparison)}.", *same_over_seeds(comparison)]),
        "order": [run.name for run in runs],
        "runs": tables[0],
        "settings": tables[1],
        "columns": [
            {"label": column.label, "unit": column.unit, "meaning": column.meaning}
            for column in COLUMNS
            if column.label in headings
        ],
        "steps": _series(runs, {name: RUN_METRICS[name] for name in CHARTS}, STEP),
        "tokens": _series(runs, {name: RUN_METRICS[name] for name in CHARTS}, TOKENS),
        "positions": _series(runs, means, STEP),
        "probes": _series(runs, probes, STEP),
        "marks": [],
        "events": [],
    }


def _probes(runs: Sequence[ComparedRun]) -> dict[str, Metric]:
    """Returns the figures of probes that some run has, by name, each called by its task and length."""
    table = MetricTable(0, {})
    names = dict.fromkeys(name for run in runs for row in run.rows for name in row)
    entries = {name: table.find(name) for name in names}
    found = [(entry, name) for name, entry in entries.items() if entry is not None and entry.probe is not None]
    in_order = sorted(found, key=lambda each: (each[0].probe, each[0].metric.label))
    return {
        name: replace(entry.metric, label=f"{probe_title(entry.probe)}: {entry.metric.label}")
        for entry, name in in_order
        if entry.probe is not None
    }


def _series(runs: Sequence[ComparedRun], metrics: dict[str, Metric], axis: str) -> list[dict[str, Any]]:
    """Returns a chart for each metric that some run has, with the running mean of noisy curves."""
    charts = []
    for name, metric in metrics.items():
        curves = []
        for color, run in enumerate(runs):
            points = [
                (row[axis], row[name]) for row in run.rows if is_number(row.get(name)) and is_number(row.get(axis))
            ]
            if points:
                drawn = curve(*zip(*points, strict=True))
                smooth = "smooth_" if drawn["smooth_x"] else ""
                curves.append({"title": run.name, "color": color, "x": drawn[f"{smooth}x"], "y": drawn[f"{smooth}y"]})
        if curves:
            described = {"label": metric.label, "unit": metric.unit, "meaning": metric.meaning}
            charts.append({"name": name, **described, "curves": curves})
    return charts
