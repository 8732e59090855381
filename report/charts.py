"""Curves, heat maps and series of the page, from the rows of metrics.jsonl: plain data, bounded in size.

Each metric is in exactly one of them; `MetricTable` says in which. Names that it does not know are in `unknown_lists`
(lists) and `other_charts` (numbers), under the name as it is.
"""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from report.metrics import (
    BUCKET_LOSS,
    CE_LOSS,
    EVAL_LOSS,
    EVAL_PERPLEXITY,
    GRAD_NORM,
    LEARNING_RATE,
    STEP,
    TOKENS,
    TOKENS_PER_SECOND,
    Entry,
    Metric,
    MetricTable,
    Scope,
    evaluation_part,
    probe_title,
)
from report.packing import curve, evenly_spaced, rounded
from report.run_folder import Row, is_number

MAIN_CHARTS = (CE_LOSS, LEARNING_RATE, GRAD_NORM, TOKENS_PER_SECOND)
EVALUATION_CHARTS = (EVAL_LOSS, EVAL_PERPLEXITY)
MAX_READINGS, MAX_HEAD_NUMBERS = 80, 500_000  # of the heat maps, 8 bytes each
MAX_LIST = 64  # curves of a list that the table does not know

Data = dict[str, Any]


class Charts:
    """What there is to draw of the rows of a run."""

    def __init__(self, rows: list[Row], table: MetricTable) -> None:
        self._rows = rows
        names = dict.fromkeys(name for row in rows for name in row)
        self._entries = {name: table.find(name) for name in names if name not in (STEP, TOKENS)}

    def main(self) -> list[Data]:
        """Returns the curves at the top of the page."""
        return self._curves(name for name in MAIN_CHARTS if name in self._entries)

    def other(self) -> list[Data]:
        """Returns the curves of all other figures of the run, and of numbers that the table does not know."""
        return self._curves(
            name
            for name, entry in self._entries.items()
            if name not in MAIN_CHARTS
            and evaluation_part(name) is None
            and (entry is None or entry.metric.scope is Scope.run)
        )

    def positions(self) -> list[Data]:
        """Returns the curves of figures of the positions of all layers together."""
        return self._curves(
            name for name, entry in self._entries.items() if entry and entry.metric.scope is Scope.positions
        )

    def unknown_lists(self) -> list[Data]:
        """Returns for each list that the table does not know its first MAX_LIST numbers, as a curve each."""
        series = []
        for name, entry in self._entries.items():
            lists = [(row[STEP], row[name]) for row in self._rows if isinstance(row.get(name), list)]
            if entry is None and lists:
                length = min(MAX_LIST, max(len(values) for _, values in lists))
                columns = {
                    str(index): [(step, values[index]) for step, values in lists if index < len(values)]
                    for index in range(length)
                }
                series += _series(_description(name, None), columns)
        return series

    def layers(self) -> list[Data]:
        """Returns for each figure with one number per layer a curve per layer."""
        return self._by_key(Scope.layer, lambda entry: entry.layer)

    def heads(self) -> Data | None:
        """Returns statistics with one number per head, [S, L, H] each at S of the steps; None if the run has none."""
        named = {name: entry for name, entry in self._entries.items() if entry and entry.metric.scope is Scope.head}
        readings = [row for row in self._rows if any(isinstance(row.get(name), list) for name in named)]
        if not readings:
            return None
        per_reading = sum(len(value) for value in readings[-1].values() if isinstance(value, list))
        readings = evenly_spaced(readings, max(2, min(MAX_READINGS, MAX_HEAD_NUMBERS // max(1, per_reading))))
        lists = {name: [row[name] if isinstance(row.get(name), list) else [] for row in readings] for name in named}
        layers = sorted({entry.layer for entry in named.values() if entry.layer is not None})
        num_heads = max(len(values) for of_name in lists.values() for values in of_name)
        if not num_heads:
            return None
        statistics: dict[str, tuple[Entry, np.ndarray]] = {}
        for name, entry in named.items():
            assert entry.layer is not None
            empty = np.full((len(readings), len(layers), num_heads), np.nan)
            values_slh = statistics.setdefault(entry.metric.name, (entry, empty))[1]
            for index, values in enumerate(lists[name]):
                numbers = [value if is_number(value) else np.nan for value in values]
                values_slh[index, layers.index(entry.layer), : len(numbers)] = numbers
        return {
            "steps": [row[STEP] for row in readings],
            "layers": layers,
            "heads": num_heads,
            "statistics": [
                {**_description(name, entry), "values": [[rounded(heads) for heads in step] for step in values_slh]}
                for name, (entry, values_slh) in statistics.items()
            ],
        }

    def evaluation(self) -> Data | None:
        """Returns the curves of the validation loss, by source and by position too, of probes and of other tasks.

        None if there is no evaluation.
        """
        unknown = [name for name, entry in self._entries.items() if entry is None]
        others = [name for name in unknown if evaluation_part(name) is not None]
        found = {
            "charts": self._curves([*(name for name in EVALUATION_CHARTS if name in self._entries), *others]),
            "sources": self._by_key(Scope.source, lambda entry: entry.source),
            "positions": self._loss_by_position(),
            "probes": self._by_key(Scope.probe, lambda entry: entry.probe, probe_title),
        }
        return found if any(found.values()) else None

    def _loss_by_position(self) -> Data | None:
        buckets = {entry.bucket: name for name, entry in self._entries.items() if entry and entry.bucket}
        rows = [row for row in self._rows if any(is_number(row.get(name)) for name in buckets.values())]
        if not rows:
            return None
        chosen = [rows[0], rows[-1]] if len(rows) > 1 else rows
        in_order = sorted(buckets)
        return {
            **_description(BUCKET_LOSS.metric.name, Entry(BUCKET_LOSS.metric)),
            "buckets": in_order,
            "readings": [
                {"step": row[STEP], "values": rounded(np.array([_number(row, buckets[each]) for each in in_order]))}
                for row in chosen
            ],
        }

    def _by_key(self, scope: Scope, key: Callable[[Entry], Any], title: Callable[[Any], str] = str) -> list[Data]:
        """Returns for each metric of this scope a curve per key, in the order of the keys."""
        found: dict[Metric, dict[Any, str]] = {}
        for name, entry in self._entries.items():
            if entry and entry.metric.scope is scope:
                found.setdefault(entry.metric, {})[key(entry)] = name
        series = []
        for metric, by_key in found.items():
            columns = {title(each): self._points(by_key[each]) for each in sorted(by_key)}
            series += _series(_description(metric.name, Entry(metric)), columns)
        return series

    def _curves(self, names: Iterable[str]) -> list[Data]:
        found = []
        for name in names:
            if points := self._points(name):
                described = {**_description(name, self._entries[name]), "name": name}
                found.append({**described, **curve(*zip(*points, strict=True))})
        return found

    def _points(self, name: str) -> list[tuple[int, float]]:
        return [(row[STEP], row[name]) for row in self._rows if is_number(row.get(name))]


def _series(description: Data, columns: dict[str, list[tuple[int, Any]]]) -> list[Data]:
    """Returns one series with a curve for each column that holds numbers, or nothing."""
    curves = []
    for title, points in columns.items():
        if numbers := [(step, value) for step, value in points if is_number(value)]:
            thinned = curve(*zip(*numbers, strict=True))
            curves.append({"title": title, "x": thinned["x"], "y": thinned["y"]})
    return [{**description, "curves": curves}] if curves else []


def _description(name: str, entry: Entry | None) -> dict[str, str]:
    if entry is None:
        return {"name": name, "label": name, "unit": "", "meaning": ""}
    metric = entry.metric
    return {"name": metric.name, "label": metric.label, "unit": metric.unit, "meaning": metric.meaning}


def _number(row: Row, name: str) -> float:
    return row[name] if is_number(row.get(name)) else np.nan
