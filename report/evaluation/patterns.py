"""Patterns and ranges of learned positions: evaluations/NAME/patterns/, as `python -m evaluate patterns` writes it.

The unit is the text: figures are averaged over layers and heads first.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from report.drawing import Point, figure, heat, lines, panels, section, table
from report.evaluation.folder import HEADS, Evaluated, colors, names_of
from report.evaluation.means import Mean, written_percent

FOLDER = "patterns"
KINDS = {
    "text": "the text",
    "shuffled": "shuffled tokens",
    "noise": "null: noise of the same std",
    "walk": "null: walk of the same steps",
}
SHARES = ("constant", "mono", "hybrid")
ALL_SHARES = tuple(f"{name}{suffix}" for suffix in ("", "_relative") for name in SHARES)
OF_TEXT = dict.fromkeys((*ALL_SHARES, "range", "rank_correlation"), HEADS)
FORM = {"index": int, **dict.fromkeys(KINDS, dict.fromkeys(ALL_SHARES, HEADS)), "text": OF_TEXT}
NUM_BINS = 16
HEAD = [
    *("length", "model", "what", "texts", "Constant, %", "Mono, %", "Hybrid, %"),
    *("Constant, eps = std", "Mono, eps = std", "Hybrid, eps = std"),
]
RANGES_HEAD = ["length", "model", "schemes", "range d", "median head", "largest head", "d / length", "rank correlation"]
LEAD = (
    "Chunks of 16 tokens, of every head that learns positions. Constant: within 0.2 of the chunk's mean (at right: "
    "within one standard deviation of the head's positions); else Mono: only rising or only falling; else Hybrid. "
    "Noise is hybrid too, and small positions are constant whatever their shape, so nulls and shuffled tokens stand "
    "below. Residual positions: of the deviation from the index. The paper, on RULER at 1B: Constant 22, Mono 4, "
    "Hybrid 74 %."
)
RANGES_LEAD = (
    "The range d is the largest position minus the smallest, per head and text. The rank correlation is that of "
    "positions with the index, in absolute value: 1 is RoPE's order or its reverse, and chance alone gives about 0.8 "
    "divided by the square root of the length."
)

Row = dict[str, Any]
Heads = Sequence[Sequence[float]]


@dataclass(frozen=True)
class Read:
    """The texts of a model at a length."""

    folder: Evaluated
    length: int
    rows: list[Row]
    layers: list[str]
    schemes: list[str]
    """Of these layers."""

    def means(self, kind: str, name: str) -> list[float]:
        """Returns a figure of each text, averaged over layers and heads."""
        return [_mean(_flat(row[kind][name])) for row in self.rows]

    def heads(self, kind: str, name: str) -> list[list[float]]:
        """Returns a figure of each layer and head, averaged over texts."""
        values: list[Heads] = [row[kind][name] for row in self.rows]
        return [
            [_mean([text[layer][head] for text in values]) for head in range(len(values[0][layer]))]
            for layer in range(len(values[0]))
        ]


def read_patterns(folders: Sequence[Evaluated]) -> list[Read]:
    """Returns what there is, in the order of lengths and folders."""
    found = []
    for folder in folders:
        settings = folder.settings(f"{FOLDER}/settings.json")
        for _, length, rows in folder.by_length(FOLDER, FORM):
            layers, schemes = (
                names_of(settings.get(key), len(rows[0]["text"]["range"])) for key in ("layers", "schemes")
            )
            found.append(Read(folder, length, list({row["index"]: row for row in rows}.values()), layers, schemes))
    place = {each.name: number for number, each in enumerate(folders)}
    return sorted(found, key=lambda each: (each.length, place[each.folder.name]))


def pattern_rows(found: Sequence[Read]) -> list[list[str]]:
    """Returns the cells under `HEAD`."""
    cells = []
    for each in found:
        for kind, said in KINDS.items():
            means = [Mean.of([100 * value for value in each.means(kind, name)]) for name in ALL_SHARES]
            shares = [written_percent(mean, len(each.rows), 1) for mean in means]
            cells.append([str(each.length), each.folder.name, said, str(len(each.rows)), *shares])
    return cells


def range_rows(found: Sequence[Read]) -> list[list[str]]:
    """Returns the cells under `RANGES_HEAD`."""
    cells = []
    for each in found:
        of_heads = sorted(_flat(each.heads("text", "range")))
        mean = Mean.of(each.means("text", "range"))
        order = [_mean([abs(value) for value in _flat(row["text"]["rank_correlation"])]) for row in each.rows]
        cells.append(
            [
                *(str(each.length), each.folder.name, ", ".join(dict.fromkeys(each.schemes)), mean.written(3)),
                *(f"{of_heads[len(of_heads) // 2]:.3g}", f"{of_heads[-1]:.3g}", f"{mean.value / each.length:.2g}"),
                Mean.of(order).written(3),
            ]
        )
    return cells


def patterns(folders: Sequence[Evaluated]) -> str | None:
    """Returns the section, or None if no folder has patterns."""
    found = read_patterns(folders)
    if not found:
        return None
    own_colors = colors(folders)
    lengths = list(dict.fromkeys(str(each.length) for each in found))
    series: dict[str, list[Point]] = {}
    for each in found:
        mean = Mean.of(each.means("text", "range"))
        series.setdefault(each.folder.name, []).append(Point(str(each.length), mean.value, mean.error))
    longest = [each for each in found if each.length == found[-1].length]
    figures = [
        figure("Range d against the length", lines(series, lengths, colors=own_colors, show="{:.3g}".format)),
        figure(f"Ranges of heads and texts at {longest[0].length} tokens, %", _histogram(longest, own_colors)),
    ]
    for each in longest:
        names = [f"{layer} {scheme}" for layer, scheme in zip(each.layers, each.schemes, strict=True)]
        values = [[100 * value for value in heads] for heads in each.heads("text", "hybrid")]
        said = f"{each.folder.name}, {each.length} tokens: Hybrid, %, by layer and head"
        figures.append(figure(said, heat(values, names, low=0, high=100, digits=0)))
    body = table(HEAD, pattern_rows(found)) + f"<p class='lead'>{RANGES_LEAD}</p>"
    return section("Patterns of positions", LEAD, body + table(RANGES_HEAD, range_rows(found)) + panels(figures))


def _histogram(found: Sequence[Read], own_colors: Any) -> str:
    """Returns the share of heads and texts in each of several ranges, of geometric width."""
    values = {
        each.folder.name: [x for row in each.rows for x in _flat(row["text"]["range"]) if math.isfinite(x)]
        for each in found
    }
    positive = [x for own in values.values() for x in own if x > 0]
    if not positive:
        return "<p class='note'>no range is a number above 0</p>"
    low, high = math.log(min(positive)), math.log(max(positive))
    width = (high - low) / NUM_BINS or 1.0
    labels = [f"{math.exp(low + (number + 0.5) * width):.2g}" for number in range(NUM_BINS)]
    labels = [label if label not in labels[:number] else f"{label} " for number, label in enumerate(labels)]
    series = {}
    for name, own in values.items():
        counts = [0] * NUM_BINS
        for x in own:
            counts[min(NUM_BINS - 1, int((math.log(x) - low) / width)) if x > 0 else 0] += 1
        series[name] = [
            Point(label, 100 * count / max(1, len(own))) for label, count in zip(labels, counts, strict=True)
        ]
    return lines(series, labels, colors=own_colors, show="{:.1f}".format, from_zero=True)


def _flat(heads: Heads) -> list[float]:
    return [value for layer in heads for value in layer]


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
