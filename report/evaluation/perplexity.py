"""Losses by index in long documents: evaluations/NAME/perplexity.csv, as `python -m evaluate perplexity` writes it."""

import math
from collections.abc import Sequence

from report.drawing import Point, figure, line_key, lines, panels, section, table
from report.evaluation.folder import Evaluated, number

TABLE = "perplexity.csv"
LEAD = (
    "Loss of each token given all before it, in nats, by its index in long documents; ranges double in length. One "
    "curve for each model, without YaRN (a whole line) and with it (dashed). A bar is one standard error over "
    "documents to each side. Models are compared by the paired differences of perplexity-against-*.csv, which are far "
    "more exact than these bars."
)
HEAD = ("tokens", "model", "range", "documents", "NLL", "perplexity", "minus without YaRN")
DASHES = ("7 4", "2 3", "9 3 2 3")
"""Of the curves under YaRN, by its factor; those without it are not dashed."""
Row = dict[str, str]


def perplexity(folders: Sequence[Evaluated]) -> str | None:
    """Returns the section, or None if no folder has losses by index."""
    rows = [
        (each.name, row) for each in folders for row in each.table(TABLE) if math.isfinite(number(row.get("length")))
    ]
    lengths = sorted({row["length"] for _, row in rows}, key=number)
    if not lengths:
        return None
    colors = {_curve(each.name, row): each.color for each in folders for row in each.table(TABLE)}
    factors = sorted({factor for _, row in rows if math.isfinite(factor := number(row.get("yarn")))})
    dashes = {
        _curve(name, row): DASHES[factors.index(factor) % len(DASHES)]
        for name, row in rows
        if math.isfinite(factor := number(row.get("yarn")))
    }
    figures, cells = [], []
    for length in lengths:
        own = [(_curve(name, row), row) for name, row in rows if row["length"] == length]
        parts = [(curve, row) for curve, row in own if not _is_whole(row)]
        labels = [_range(row) for row in sorted((row for _, row in parts), key=lambda row: number(row.get("start")))]
        series: dict[str, list[Point]] = {}
        for curve, row in parts:
            point = Point(_range(row), number(row.get("nll")), number(row.get("nll_se")))
            series.setdefault(curve, []).append(point)
        drawn = lines(series, list(dict.fromkeys(labels)), colors=colors, show="{:.3f}".format, dashes=dashes)
        figures.append(figure(f"{_grouped(length)} tokens", drawn))
        cells += [_cells(curve, row) for curve, row in own]
    key = " &nbsp; ".join(line_key(curve, color, dashes.get(curve)) for curve, color in colors.items())
    return section("Loss by index", LEAD, f"<p>{key}</p>" + panels(figures) + table(HEAD, cells))


def _cells(curve: str, row: Row) -> list[str]:
    span = "all" if _is_whole(row) else _range(row)
    value, minus = number(row.get("nll")), number(row.get("minus_without_yarn"))
    return [
        _grouped(row["length"]),
        curve,
        span,
        row.get("documents", ""),
        f"{value:.3f}{_error(row.get('nll_se'))}" if math.isfinite(value) else "",
        f"{number(row.get('perplexity')):.4g}",
        f"{minus:+.3f}{_error(row.get('minus_without_yarn_se'))}" if math.isfinite(minus) else "",
    ]


def _curve(name: str, row: Row) -> str:
    factor = number(row.get("yarn"))
    return f"{name}, YaRN {factor:g}" if math.isfinite(factor) else name


def _is_whole(row: Row) -> bool:
    """Returns whether a row is about a whole length, not a range of it."""
    return row.get("start") == "0" and row.get("stop") == row["length"]


def _range(row: Row) -> str:
    return f"{row.get('start', '')}-{row.get('stop', '')}"


def _grouped(count: str) -> str:
    return f"{number(count):,.0f}"


def _error(text: str | None) -> str:
    value = number(text)
    return f" ± {value:.3f}" if math.isfinite(value) else ""
