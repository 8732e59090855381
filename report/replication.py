"""The page and the table of a replication: every task and length, all seeds as points, differences with intervals.

What is drawn is plain data, as `python -m evaluate replicate` writes it to findings.json. The page is one file without
a script.
"""

import html
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from report.drawing import LEFT, PANEL_HEIGHT, RIGHT, STYLE, WIDTH, Axis, bar, column, dot, figure, panels, svg, table
from report.drawing import section as part

BASELINE = "rope"
LABELS = {"rope": "RoPE", "nope": "NoPE", "r2n1": "R2N1", "n2r1": "N2R1", "repo": "RePo", "residual": "residual (ours)"}
COLORS = ("#756e64", "#a8791b", "#4b8b3b", "#1f6f78", "#b8432f", "#93386b")


def label(scheme: str) -> str:
    """Returns how people write a scheme."""
    return LABELS.get(scheme, scheme)


def markdown(found: Mapping[str, Any], name: str) -> str:
    """Returns all tables, with the sentences first."""
    parts = [f"# Replication `{name}`", "", *[f"- {each}" for each in found["sentences"]], "", *_settings_lines(found)]
    for title, lead, head, rows in _tables(found):
        parts += ["", f"## {title}", "", lead, "", f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
        parts += [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join(parts) + "\n"


def page(found: Mapping[str, Any], name: str) -> str:
    """Returns the page, one HTML file."""
    schemes = found["settings"]["schemes"]
    cells = list(dict.fromkeys((each["task"], each["length"]) for each in found["means"]))
    scores = []
    for task, length in cells:
        own = {each["scheme"]: each for each in found["means"] if (each["task"], each["length"]) == (task, length)}
        points = {scheme: [100 * value for value in own[scheme]["by_seed"]] for scheme in schemes}
        scores.append(figure(f"{task}, {length} tokens: {found['metric']}, %", _points(points)))
    compared = [found["primary"], *found["others"]]
    differences = []
    for key in dict.fromkeys((each["task"], tuple(each["lengths"])) for each in compared):
        own = {each["scheme"]: each for each in compared if (each["task"], tuple(each["lengths"])) == key}
        title = f"{key[0]}, {', '.join(map(str, key[1]))} tokens: minus {label(BASELINE)}, points"
        differences.append(figure(title, _differences({s: own[s] for s in schemes if s in own})))
    style = (Path(__file__).parent / "report.css").read_text() + STYLE
    said = "".join(f"<p class='verdict'>{html.escape(each)}</p>" for each in found["sentences"])
    lines = "".join(f"<p class='note'>{html.escape(each)}</p>" for each in _settings_lines(found) if each)
    tables = "".join(part(title, lead, table(head, rows)) for title, lead, head, rows in _tables(found))
    return (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<title>Replication {html.escape(name)}</title><style>{style}</style></head><body><div class='page'>"
        f"<header><p class='eyebrow'>replication</p><h1>{html.escape(name)}</h1>{said}{lines}</header>"
        "<section><h2>Every task and length</h2><p class='lead'>A point is a seed, a line the mean.</p>"
        f"{panels(scores)}</section>"
        "<section><h2>Paired differences</h2><p class='lead'>A point is a seed; the bar is the interval by the "
        f"bootstrap over seeds and samples.</p>{panels(differences)}</section>{tables}"
        "</div></body></html>\n"
    )


def _settings_lines(found: Mapping[str, Any]) -> list[str]:
    settings = found["settings"]
    rates = ", ".join(f"{label(scheme)} {rate:g}" for scheme, rate in found["rates"].items())
    tuning = settings["tuning"]
    effort = f"rates {tuning['rates']} on seeds {tuning['seeds']}" if tuning["seeds"] else "not tuned"
    return [
        f"Seeds {settings['seeds']}; stage 1 (RoPE) {settings['stage_1']['steps']} steps, stage 2 "
        f"{settings['stage_2']['steps']} steps of {settings['batch_rows']} rows of "
        f"{settings['corpus']['row_length']} tokens, on fresh data, the same for all schemes of a seed; "
        f"{settings['probes']['num_samples']} samples of each task at each length.",
        "",
        f"Learning rate of stage 2: {rates} (tried for each scheme: {effort}).",
    ]


def _tables(found: Mapping[str, Any]) -> list[tuple[str, str, list[str], list[list[str]]]]:
    """Returns (title, lead, head, rows) of each table."""
    return [_means_table(found), _differences_table(found), _positions_table(found), _paper_table(found)]


def _means_table(found: Mapping[str, Any]) -> tuple[str, str, list[str], list[list[str]]]:
    rows = []
    for each in found["means"]:
        seeds = " ".join(f"{100 * value:.1f}" for value in each["by_seed"])
        figures = [f"{100 * _mean(each['by_seed']):.1f}", seeds, f"{100 * _mean(each['exact']):.1f}"]
        rows.append([each["task"], str(each["length"]), label(each["scheme"]), *figures, f"{_mean(each['nll']):.3f}"])
    lead = "Accuracy is the share of the answer's tokens that are right; exact, of samples whose answer is. In percent."
    return "Scores", lead, ["task", "length", "scheme", "accuracy", "of each seed", "exact", "NLL"], rows


def _differences_table(found: Mapping[str, Any]) -> tuple[str, str, list[str], list[list[str]]]:
    rows = []
    for each in (found["primary"], *found["others"]):
        is_primary = each is found["primary"]
        rows.append(
            [
                f"{label(each['scheme'])}{' (primary)' if is_primary else ''}",
                each["task"],
                ", ".join(map(str, each["lengths"])),
                f"{100 * each['mean']:+.1f}",
                f"{100 * each['low']:+.1f} to {100 * each['high']:+.1f}",
                _range(100 * each["t_low"], 100 * each["t_high"]),
                _p(each["p"]),
                "" if is_primary else _p(each["p_holm"]),
            ]
        )
    lead = (
        f"Accuracy minus {label(BASELINE)}'s in points, paired by seed and sample. Intervals of "
        f"{100 * found['level']:.0f} %: by the bootstrap over seeds and samples, and Student's over seeds. p is "
        "Student's; Holm's correction is over all comparisons but the primary one."
    )
    head = ["scheme", "task", "lengths", "difference", "bootstrap", "Student", "p", "p (Holm)"]
    return "Paired differences", lead, head, rows


def _positions_table(found: Mapping[str, Any]) -> tuple[str, str, list[str], list[list[str]]]:
    learned = [each for each in found["positions"] if each["figures"]]
    names = list(dict.fromkeys(name for each in learned for name in each["figures"]))
    rows = [
        [
            label(each["scheme"]),
            str(each["seed"]),
            *[f"{each['figures'][name]:.3g}" if name in each["figures"] else "" for name in names],
            ", ".join(each["alerts"]),
        ]
        for each in learned
    ]
    lead = (
        "The last reading of the position watch, means over heads and layers (docs/positions.md). Of residual "
        "positions the deviations from the index are read. Noise too is hybrid: the shares alone say little."
    )
    return "What the positions became", lead, ["scheme", "seed", *names, "alerts"], rows


def _paper_table(found: Mapping[str, Any]) -> tuple[str, str, list[str], list[list[str]]]:
    paper = found["paper"]
    rows = [[label(scheme), *[f"{value:.1f}" for value in values]] for scheme, values in paper["rows"].items()]
    return "The paper's numbers, of another scale", f"{paper['title']}.", ["scheme", *paper["columns"]], rows


def _points(values: Mapping[str, Sequence[float]]) -> str:
    """Returns a drawing with a column of points for each scheme, and a line at the mean."""
    flat = [each for own in values.values() for each in own]
    axis = Axis(min(flat), max(flat), from_zero=True)
    parts = [axis.lines()]
    for number, (scheme, own) in enumerate(values.items()):
        x, color = column(number, len(values)), COLORS[number % len(COLORS)]
        parts.append(_name(x, scheme))
        parts.append(bar(x - 22, x + 22, axis.y(_mean(own)), color))
        parts += [dot(x + _spread(i, len(own)), axis.y(value), color, f"{value:.1f}") for i, value in enumerate(own)]
    return svg(parts)


def _differences(own: Mapping[str, Mapping[str, Any]]) -> str:
    """Returns a drawing with the difference of each scheme: seeds as points, the mean, and the interval."""
    flat = [0.0, *(100 * each[end] for each in own.values() for end in ("low", "high"))]
    flat += [100 * value for each in own.values() for value in each["by_seed"]]
    axis = Axis(min(flat), max(flat))
    parts = [axis.lines(), bar(LEFT, WIDTH - RIGHT, axis.y(0.0), "var(--ink)", 1)]
    for number, (scheme, each) in enumerate(own.items()):
        x, color = column(number, len(own)), COLORS[(number + 1) % len(COLORS)]
        low, high = axis.y(100 * each["low"]), axis.y(100 * each["high"])
        parts.append(_name(x, scheme))
        parts.append(
            f"<line x1='{x:.1f}' x2='{x:.1f}' y1='{low:.1f}' y2='{high:.1f}' stroke='{color}' stroke-width='3'/>"
        )
        parts.append(bar(x - 9, x + 9, axis.y(100 * each["mean"]), color))
        seeds = each["by_seed"]
        parts += [
            dot(x + 14 + _spread(i, len(seeds)) / 2, axis.y(100 * value), color, f"{100 * value:+.1f}")
            for i, value in enumerate(seeds)
        ]
    return svg(parts)


def _spread(number: int, count: int) -> float:
    return 0.0 if count == 1 else -16 + 32 * number / (count - 1)


def _name(x: float, scheme: str) -> str:
    return f"<text x='{x:.1f}' y='{PANEL_HEIGHT - 18}' text-anchor='middle'>{html.escape(label(scheme))}</text>"


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _range(low: float, high: float) -> str:
    return "" if math.isnan(low) else f"{low:+.1f} to {high:+.1f}"


def _p(value: float) -> str:
    return "" if math.isnan(value) else "< 0.001" if value < 0.001 else f"{value:.3f}"
