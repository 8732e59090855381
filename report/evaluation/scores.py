"""Scores of probes: evaluations/NAME/table.csv, as `python -m evaluate probe` writes it."""

import math
from collections.abc import Sequence

from report.drawing import Point, figure, lines, panels, section, table
from report.evaluation.folder import Evaluated, colors, number

TABLE = "table.csv"
LEAD = (
    "Made-up questions that need the context. Score: the share of right answers by the task's own rule, in percent; "
    "NLL: minus the log-likelihood of the right answer, nats per token. A bar is one standard error over the questions "
    "to each side: it does not cover another training seed. The same questions for all models of one tokenizer."
)
FIGURES = {"score": ("score, %", 1), "nll": ("NLL, nats per token", 3)}


def probes(folders: Sequence[Evaluated]) -> str | None:
    """Returns the section, or None if no folder has scores."""
    tables = {each.name: each.table(TABLE) for each in folders}
    tasks = list(dict.fromkeys(row.get("task", "") for rows in tables.values() for row in rows))
    if not tasks:
        return None
    figures, cells = [], []
    for task in tasks:
        own = {name: sorted(_of_task(rows, task), key=_length) for name, rows in tables.items()}
        lengths = sorted({row["length"] for rows in own.values() for row in rows}, key=number)
        for key, (label, digits) in FIGURES.items():
            series = {
                name: [Point(row["length"], number(row.get(key)), number(row.get(f"{key}_se"))) for row in rows]
                for name, rows in own.items()
            }
            if any(math.isfinite(point.value) for points in series.values() for point in points):
                show = f"{{:.{digits}f}}".format
                figures.append(figure(f"{task}: {label}", lines(series, lengths, colors=colors(folders), show=show)))
        cells += [
            [task, row["length"], name, row.get("samples", ""), *(_cell(row, key) for key in FIGURES)]
            for name, rows in own.items()
            for row in rows
        ]
    head = ["task", "length", "model", "samples", *(label for label, _ in FIGURES.values())]
    return section("Probes", LEAD, panels(figures) + table(head, cells))


def _of_task(rows: Sequence[dict[str, str]], task: str) -> list[dict[str, str]]:
    return [row for row in rows if row.get("task") == task and math.isfinite(_length(row))]


def _length(row: dict[str, str]) -> float:
    return number(row.get("length"))


def _cell(row: dict[str, str], key: str) -> str:
    value, error, digits = number(row.get(key)), number(row.get(f"{key}_se")), FIGURES[key][1]
    if not math.isfinite(value):
        return ""
    return f"{value:.{digits}f}" + (f" ± {error:.{digits}f}" if math.isfinite(error) else "")
