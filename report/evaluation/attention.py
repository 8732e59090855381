"""Attention on parts of a prompt: evaluations/NAME/attention/, as `python -m evaluate attention` writes it.

The unit is the sample: masses are averaged over layers and heads first, then means and standard errors are taken over
samples.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from report.drawing import Point, figure, folded, heat, lines, panels, section, table
from report.evaluation.folder import HEADS, Evaluated, colors, names_of
from report.evaluation.means import Mean

FOLDER = "attention"
PARTS = ("first", "needle", "query", "rest", "own")
PER_TOKEN = ("needle", "query", "rest")
SCALE = 100  # the paper's: per token, in 1e-2
FORM = {"index": int, "tokens": int, "counts": dict.fromkeys(PARTS, int), "mass": dict.fromkeys(PARTS, HEADS)}
OWN_SETTINGS = ("weights", "schemes")  # in which models may differ that read the same text
PAPER = {"RoPE": (1.754, 1.123, 0.014), "NoPE": (1.572, 1.135, 0.014), "RePo": (2.013, 1.046, 0.015)}
HEAD = [
    *("task", "length", "layers", "model", "samples", "needle", "query", "rest", "rest with first"),
    *("uniform", "first, %", "own, %", "tokens of each"),
]
DIFFERENCES_HEAD = ["task", "length", "models", "samples", *PER_TOKEN]
LEAD = (
    "Attention from the tokens of the right answer, which is given as the text, on the tokens of the value in the "
    "context (needle), on the question, and on the rest: per token, in 1e-2, averaged over heads and layers. The first "
    "token and the answer's own are apart, with their whole mass in percent. Uniform attention would give every token "
    "the value of that column. A standard error is over samples; layers and heads are no independent samples."
)
PAPER_LEAD = (
    "The paper's table 4, of 1B models at 4,096 tokens: another scale. It does not say which task, whether the first "
    "token is in the rest, or how many samples there are."
)

Row = dict[str, Any]


@dataclass(frozen=True)
class Attended:
    """The samples of a model in a task at a length."""

    folder: Evaluated
    task: str
    length: int
    rows: dict[int, Row]
    """By index."""
    schemes: list[str]
    """Of the layers, bottom first."""
    shared: dict[str, Any]
    """The settings that make two models' samples the same."""

    def layer_groups(self) -> dict[str, list[int]]:
        """Returns all layers, and where they differ those of each scheme."""
        names = list(dict.fromkeys(self.schemes))
        groups = {"all": list(range(len(self.schemes)))}
        if len(names) > 1:
            groups |= {name: [i for i, own in enumerate(self.schemes) if own == name] for name in names}
        return groups

    def mean(self, value: Callable[[Row], float]) -> Mean:
        """Returns the mean of a figure of samples."""
        return Mean.of([value(row) for row in self.rows.values()])


def mass(row: Row, part: str, layers: Sequence[int]) -> float:
    """Returns the attention on a part, averaged over heads and these layers."""
    values = [value for layer in layers for value in row["mass"][part][layer]]
    return math.fsum(values) / len(values)


def per_token(row: Row, part: str, layers: Sequence[int]) -> float:
    """Returns the mass per token of the part, in 1e-2; `rest with first` counts the first token to the rest."""
    names = ("rest", "first") if part == "rest with first" else (part,)
    count = sum(row["counts"][name] for name in names)
    return SCALE * math.fsum(mass(row, name, layers) for name in names) / count if count else math.nan


def read_attention(folders: Sequence[Evaluated]) -> list[Attended]:
    """Returns what there is, in the order of tasks, lengths and folders."""
    found = []
    for folder in folders:
        settings = folder.settings(f"{FOLDER}/settings.json")
        shared = {key: value for key, value in settings.items() if key not in OWN_SETTINGS}
        for task, length, rows in folder.by_length(FOLDER, FORM):
            schemes = names_of(settings.get("schemes"), len(rows[0]["mass"]["needle"]))
            found.append(Attended(folder, task, length, {row["index"]: row for row in rows}, schemes, shared))
    place = {each.name: number for number, each in enumerate(folders)}
    return sorted(found, key=lambda each: (each.task, each.length, place[each.folder.name]))


def means_rows(found: Sequence[Attended]) -> list[list[str]]:
    """Returns the cells under `HEAD`."""
    cells = []
    for each in found:
        for group, layers in each.layer_groups().items():
            cells.append(
                [
                    *(each.task, str(each.length), group, each.folder.name, str(len(each.rows))),
                    *(
                        each.mean(lambda row, part=part, layers=layers: per_token(row, part, layers)).written(3)  # type: ignore[misc]
                        for part in (*PER_TOKEN, "rest with first")
                    ),
                    f"{each.mean(lambda row: SCALE / row['tokens']).value:.3f}",
                    *(
                        each.mean(lambda row, part=part, layers=layers: 100 * mass(row, part, layers)).written(1)  # type: ignore[misc]
                        for part in ("first", "own")
                    ),
                    ", ".join(f"{each.mean(lambda row, p=p: row['counts'][p]).value:.0f}" for p in PER_TOKEN),  # type: ignore[misc]
                ]
            )
    return cells


def difference_rows(found: Sequence[Attended]) -> list[list[str]]:
    """Returns, for every model after the first of a task and length, its masses minus the first's, paired by sample."""
    cells = []
    firsts: dict[tuple[str, int], Attended] = {}
    for each in found:
        first = firsts.setdefault((each.task, each.length), each)
        common = sorted(first.rows.keys() & each.rows.keys())
        if first is each or not common:
            continue
        names = f"{each.folder.name} - {first.folder.name}"
        start = [each.task, str(each.length), names, str(len(common))]
        if first.shared != each.shared:
            cells.append([*start, *["other samples"] * len(PER_TOKEN)])
            continue
        cells.append(start)
        for part in PER_TOKEN:
            pairs = [
                [per_token(one.rows[index], part, one.layer_groups()["all"]) for index in common]
                for one in (each, first)
            ]
            cells[-1].append(Mean.of([a - b for a, b in zip(*pairs, strict=True)]).written(4))
    return cells


def attention(folders: Sequence[Evaluated]) -> str | None:
    """Returns the section, or None if no folder has attention."""
    found = read_attention(folders)
    if not found:
        return None
    by_layer, maps = [], []
    for key in dict.fromkeys((each.task, each.length) for each in found):
        own = [each for each in found if (each.task, each.length) == key]
        title = f"{key[0]}, {key[1]} tokens"
        by_layer.append(_by_layer(f"{title}: needle, per token, by layer", own, folders))
        for each in own:
            name = f"{title}, {each.folder.name}: needle, per token, by layer and head"
            maps.append(figure(name, _heat(each, own)))
    body = panels(by_layer) + table(HEAD, means_rows(found))
    if differences := difference_rows(found):
        said = "<p class='lead'>Paired differences, of all layers, by sample:</p>"
        body += said + table(DIFFERENCES_HEAD, differences)
    body += folded("Every head", panels(maps))
    rows = [[name, *(f"{value:.3f}" for value in values)] for name, values in PAPER.items()]
    body += f"<p class='lead'>{PAPER_LEAD}</p>" + table(["scheme", *PER_TOKEN], rows)
    return section("Attention", LEAD, body)


def _by_layer(title: str, found: Sequence[Attended], folders: Sequence[Evaluated]) -> str:
    series = {}
    for each in found:
        points = []
        for layer in range(len(each.schemes)):
            mean = each.mean(lambda row, layer=layer: per_token(row, "needle", [layer]))  # type: ignore[misc]
            points.append(Point(str(layer), mean.value, mean.error))
        series[each.folder.name] = points
    labels = [str(layer) for layer in range(max(len(each.schemes) for each in found))]
    return figure(title, lines(series, labels, colors=colors(folders), show="{:.3f}".format, from_zero=True))


def _heat(each: Attended, beside: Sequence[Attended]) -> str:
    high = max(max(map(max, _per_head(other))) for other in beside)
    names = [f"{layer} {scheme}" for layer, scheme in enumerate(each.schemes)]
    return heat(_per_head(each), names, low=0.0, high=high, digits=2)


def _per_head(each: Attended) -> list[list[float]]:
    """Returns the needle's mass per token of each layer and head, a mean over samples."""
    rows = list(each.rows.values())
    return [
        [
            SCALE * math.fsum(row["mass"]["needle"][layer][head] / row["counts"]["needle"] for row in rows) / len(rows)
            for head in range(len(rows[0]["mass"]["needle"][layer]))
        ]
        for layer in range(len(each.schemes))
    ]
