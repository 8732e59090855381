"""Tables and drawings of pages without a script: HTML and inline SVG. Text from outside is escaped here."""

import html
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

COLORS = ("#1f6f78", "#b8432f", "#a8791b", "#4b8b3b", "#93386b", "#756e64")
WIDTH, PANEL_HEIGHT, LEFT, RIGHT, BOTTOM = 540, 240, 56, 12, 46
CELL_HEIGHT, MAX_CELL_WIDTH = 22, 60
MAX_TEXTS_IN_CELLS = 16  # columns of a heat map from which cells are too narrow for their numbers
STYLE = """
.panels { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(460px, 100%), 1fr)); gap: 18px; }
figure { margin: 0; padding: 12px; background: var(--card); border: 1px solid var(--line); border-radius: 9px; }
figcaption { font-weight: 600; } svg { width: 100%; height: auto; display: block; }
svg text { font: 11px var(--sans); fill: var(--muted); } .scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums; }
td, th { padding: 3px 10px; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
td:first-child, th:first-child { text-align: left; } .verdict { font-size: 16px; max-width: 90ch; }
details { margin: 14px 0; } .panels, .scroll { margin-bottom: 18px; }
"""


@dataclass(frozen=True)
class Point:
    """A value over a label of the horizontal axis."""

    label: str
    value: float
    error: float = math.nan
    """The standard error, drawn as a bar of one to each side; not a number for none."""


class Axis:
    """A vertical axis from a lowest to a highest value, or from zero, as for shares."""

    def __init__(self, low: float, high: float, margin: float = 0.5, *, from_zero: bool = False) -> None:
        margin = max(margin, 0.06 * (high - low))
        self._low, self._high = 0.0 if from_zero else low - margin, high + margin

    def y(self, value: float) -> float:
        """Returns where a value is drawn; one below the axis, at its low end."""
        share = max(0.0, (value - self._low) / (self._high - self._low))
        return (1 - share) * (PANEL_HEIGHT - BOTTOM - 10) + 10

    def lines(self) -> str:
        """Returns lines at round values, with their labels."""
        size = 10 ** math.floor(math.log10(self._high - self._low))
        step = next(size * each for each in (0.1, 0.2, 0.5, 1, 2) if (self._high - self._low) / (size * each) <= 7)
        ticks = [step * k for k in range(math.ceil(self._low / step), math.floor(self._high / step) + 1)]
        return "".join(
            bar(LEFT, WIDTH - RIGHT, self.y(tick), "var(--grid)", 1)
            + f"<text x='{LEFT - 6}' y='{self.y(tick) + 4:.1f}' text-anchor='end'>{float(f'{tick:.6g}'):g}</text>"
            for tick in ticks
        )


def figure(title: str, drawing: str) -> str:
    """Returns a drawing with its title."""
    return f"<figure><figcaption>{html.escape(title)}</figcaption>{drawing}</figure>"


def panels(figures: Sequence[str]) -> str:
    """Returns figures side by side."""
    return f"<div class='panels'>{''.join(figures)}</div>"


def section(title: str, lead: str, body: str) -> str:
    """Returns a part of a page; `body` is HTML."""
    return f"<section><h2>{html.escape(title)}</h2><p class='lead'>{html.escape(lead)}</p>{body}</section>"


def folded(title: str, body: str) -> str:
    """Returns a part that a click opens; `body` is HTML."""
    return f"<details><summary>{html.escape(title)}</summary>{body}</details>"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Returns a table."""
    top = "".join(f"<th>{html.escape(each)}</th>" for each in head)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(each)}</td>" for each in row) + "</tr>" for row in rows)
    return f"<div class='scroll'><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>"


def svg(parts: Sequence[str], height: float = PANEL_HEIGHT) -> str:
    """Returns a drawing."""
    return f"<svg viewBox='0 0 {WIDTH} {height:g}' role='img'>{''.join(parts)}</svg>"


def bar(x1: float, x2: float, y: float, color: str, width: int = 2) -> str:
    """Returns a horizontal line."""
    return f"<line x1='{x1:.1f}' x2='{x2:.1f}' y1='{y:.1f}' y2='{y:.1f}' stroke='{color}' stroke-width='{width}'/>"


def dot(x: float, y: float, color: str, title: str, *, is_hollow: bool = False) -> str:
    """Returns a point; the title is shown under the mouse."""
    return (
        f"<circle cx='{x:.1f}' cy='{y:.1f}' r='3.4' {_fill(color, is_hollow)}>"
        f"<title>{html.escape(title)}</title></circle>"
    )


def line_key(name: str, color: str, dash: str | None) -> str:
    """Returns the name of a curve behind a piece of it, for a legend."""
    stroke = f" stroke-dasharray='{dash}'" if dash else ""
    return (
        "<svg viewBox='0 0 34 10' style='display:inline-block;width:34px;height:10px;vertical-align:middle'>"
        f"<line x1='1' x2='33' y1='5' y2='5' stroke='{color}' stroke-width='2'{stroke}/>"
        f"<circle cx='17' cy='5' r='3.4' {_fill(color, dash is not None)}/></svg> {html.escape(name)}"
    )


def column(number: int, count: int) -> float:
    """Returns the middle of one of `count` columns."""
    return LEFT + (WIDTH - LEFT - RIGHT) * (number + 0.5) / count


def lines(
    series: Mapping[str, Sequence[Point]],
    labels: Sequence[str],
    *,
    colors: Mapping[str, str],
    show: Callable[[float], str],
    from_zero: bool = False,
    dashes: Mapping[str, str] | None = None,
) -> str:
    """Returns a curve for each name over the labels, in their order.

    A curve with `dashes` has hollow points. Values that are no finite numbers are left out; `show` writes a value
    under the mouse. Shares are drawn from zero.
    """
    kept = {name: [each for each in points if math.isfinite(each.value)] for name, points in series.items()}
    if not any(kept.values()):
        return svg([])
    ends = [each.value + sign * _error(each) for points in kept.values() for each in points for sign in (-1, 1)]
    axis = Axis(min(ends), max(ends), margin=0.02 * max(map(abs, ends)) or 1.0, from_zero=from_zero)
    parts = [axis.lines(), *_x_labels(labels)]
    for number, (name, points) in enumerate(kept.items()):
        color, shift = colors[name], (number - (len(kept) - 1) / 2) * min(8, 120 / len(labels) / len(kept))
        places = [(column(labels.index(each.label), len(labels)) + shift, axis.y(each.value)) for each in points]
        joined = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        dash = (dashes or {}).get(name)
        stroke = f"stroke-dasharray='{dash}' stroke-width='1.5'" if dash else "stroke-opacity='.55'"
        parts.append(f"<polyline points='{joined}' fill='none' stroke='{color}' {stroke}/>")
        for (x, y), each in zip(places, points, strict=True):
            low, high = axis.y(each.value - _error(each)), axis.y(each.value + _error(each))
            parts.append(
                f"<line x1='{x:.1f}' x2='{x:.1f}' y1='{low:.1f}' y2='{high:.1f}' stroke='{color}' stroke-width='2'/>"
            )
            error = f" ± {show(each.error)}" if math.isfinite(each.error) else ""
            parts.append(
                dot(x, y, color, f"{name}, {each.label}: {show(each.value)}{error}", is_hollow=dash is not None)
            )
    return svg(parts)


def heat(values: Sequence[Sequence[float]], rows: Sequence[str], *, low: float, high: float, digits: int) -> str:
    """Returns a cell for each value, rows by name, coloured from `low` to `high`; the number is in it or under the
    mouse.
    """
    count = max(map(len, values))
    width = min(MAX_CELL_WIDTH, (WIDTH - LEFT - RIGHT) / count)
    parts = []
    for i, (name, row) in enumerate(zip(rows, values, strict=True)):
        y = i * CELL_HEIGHT + 4
        parts.append(f"<text x='{LEFT - 6}' y='{y + 15}' text-anchor='end'>{html.escape(name)}</text>")
        for k, value in enumerate(row):
            if not math.isfinite(value):
                continue
            share = 0.0 if high <= low else min(1.0, max(0.0, (value - low) / (high - low)))
            x, said = LEFT + k * width, f"{value:.{digits}f}"
            parts.append(
                f"<rect x='{x:.1f}' y='{y}' width='{width - 1:.1f}' height='{CELL_HEIGHT - 1}' "
                f"fill='color-mix(in srgb, var(--accent) {100 * share:.0f}%, var(--grid))'>"
                f"<title>{html.escape(name)}, head {k}: {said}</title></rect>"
            )
            if count <= MAX_TEXTS_IN_CELLS:
                ink = "var(--paper)" if share > 0.5 else "var(--ink)"
                parts.append(
                    f"<text x='{x + width / 2:.1f}' y='{y + 15}' text-anchor='middle' style='fill:{ink};"
                    f"font-size:{9 if count > 8 else 10.5}px;pointer-events:none'>{said}</text>"
                )
    return svg(parts, len(values) * CELL_HEIGHT + 8)


def _fill(color: str, is_hollow: bool) -> str:
    return (
        f"fill='var(--card)' stroke='{color}' stroke-width='1.6'" if is_hollow else f"fill='{color}' fill-opacity='.75'"
    )


def _error(point: Point) -> float:
    return point.error if math.isfinite(point.error) else 0.0


def _x_labels(labels: Sequence[str]) -> list[str]:
    """Returns as many labels as fit below the columns."""
    every = math.ceil(len(labels) * max(map(len, labels)) * 7 / (WIDTH - LEFT - RIGHT))
    return [
        f"<text x='{column(number, len(labels)):.1f}' y='{PANEL_HEIGHT - 18}' text-anchor='middle'>"
        f"{html.escape(label)}</text>"
        for number, label in enumerate(labels)
        if number % every == 0
    ]
