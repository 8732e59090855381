"""Scores of probes: evaluations/NAME/table.csv, as `python -m evaluate probe` writes it."""

import json
import math
from collections.abc import Sequence
from typing import Any

from report.drawing import Point, figure, lines, panels, section, table
from report.evaluation.folder import Evaluated, colors, number
from report.evaluation.means import Mean, are_alike, written_percent

TABLE = "table.csv"
LEAD = (
    "Made-up questions that need the context. Score: the share of right answers by the task's own rule, in percent; "
    "NLL: minus the log-likelihood of the right answer, nats per token; choice: how often it is likelier than the "
    "wrong answers, where there are any. A bar is one standard error over the questions to each side: it does not "
    "cover another training seed. Where all questions have one score there is no bar, and [a, b] is the range of the "
    "mean with 95 % confidence. "
)
SAME = "The same questions for all models of one tokenizer."
SETTINGS = "settings.json"
OF_THE_MODEL = ("weights", "tokenizer", "yarn")  # settings that models which are compared may differ in
FORM = {"index": int, "gold": list, "score": float | None, "nll": float, "answer_tokens": int}
FIGURES = {"score": ("score, %", 1), "nll": ("NLL, nats per token", 3), "choice": ("choice, %", 1)}
PERCENT = ("score", "choice")


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
                name: [Point(row["length"], number(row.get(key)), _drawn_error(row, key)) for row in rows]
                for name, rows in own.items()
            }
            if any(math.isfinite(point.value) for points in series.values() for point in points):
                show = f"{{:.{digits}f}}".format
                drawn = lines(series, lengths, colors=colors(folders), show=show, from_zero=key in PERCENT)
                figures.append(figure(f"{task}: {label}", drawn))
        cells += [
            [task, row["length"], name, row.get("samples", ""), *(_cell(row, key) for key in FIGURES)]
            for name, rows in own.items()
            for row in rows
        ]
    head = ["task", "length", "model", "samples", *(label for label, _ in FIGURES.values())]
    body = panels(figures) + table(head, cells)
    if differences := difference_rows(folders, list(dict.fromkeys((each[0], each[1]) for each in cells))):
        said = "<p class='lead'>Paired differences, by question:</p>"
        body += said + table(["task", "length", "models", *head[3:]], differences)
    other = other_questions(folders)
    return section("Probes", LEAD + (f"{other[0].upper()}{other[1:]}." if other else SAME), body)


def other_questions(folders: Sequence[Evaluated]) -> str | None:
    """Returns which settings of the questions differ, in words; None if these are the same, or not known."""
    kept = [settings for each in folders if (settings := _of_questions(each))]
    differing = []
    for key in dict.fromkeys(key for settings in kept for key in settings):
        values = list(dict.fromkeys(_said(settings.get(key)) for settings in kept))
        if len(values) > 1:
            differing.append(f"{key} {' and '.join(values)}")
    return f"settings differ: {', '.join(differing)}: not the same questions" if differing else None


def _of_questions(folder: Evaluated) -> dict[str, Any]:
    return {key: value for key, value in folder.settings(SETTINGS).items() if key not in OF_THE_MODEL}


def _said(value: object) -> str:
    return "not set" if value is None else json.dumps(value).strip('"')


def difference_rows(folders: Sequence[Evaluated], cells: Sequence[tuple[str, str]]) -> list[list[str]]:
    """Returns, of each task and length, the results of every model after the first minus the first's, by question.

    Questions of other settings or with other right answers are not paired.
    """
    found = []
    for task, length in cells:
        first, *others = [_by_question(folder.rows(f"{task}-{length}.jsonl", FORM)) for folder in folders]
        for folder, other in zip(folders[1:], others, strict=True):
            common = sorted(first.keys() & other.keys())
            if not common or other_questions([folders[0], folder]):
                continue
            differences = [[b - a for a, b in zip(first[each], other[each], strict=True)] for each in common]
            written = [
                _written(Mean.of(own), key, len(own), lowest=-100.0) if all(map(math.isfinite, own)) else ""
                for own, key in zip(zip(*differences, strict=True), FIGURES, strict=True)
            ]
            found.append([task, length, f"{folder.name} - {folders[0].name}", str(len(common)), *written])
    return found


def _by_question(rows: Sequence[dict[str, Any]]) -> dict[tuple[int, str], tuple[float, float, float]]:
    """Returns FIGURES of each question, by its index and right answer."""
    return {
        (row["index"], str(row["gold"])): (
            math.nan if row["score"] is None else 100 * row["score"],
            row["nll"] / row["answer_tokens"],
            _choice(row),
        )
        for row in rows
        if row["answer_tokens"] > 0
    }


def _choice(row: dict[str, Any]) -> float:
    """Returns 100 if the right answer is likelier than the wrong ones, else 0; not a number if there are none."""
    wrong = row.get("wrong_nll")
    if not isinstance(wrong, list) or not wrong or not all(isinstance(each, float) for each in wrong):
        return math.nan
    return 100.0 * (row["nll"] < min(wrong))


def _of_task(rows: Sequence[dict[str, str]], task: str) -> list[dict[str, str]]:
    return [row for row in rows if row.get("task") == task and math.isfinite(_length(row))]


def _length(row: dict[str, str]) -> float:
    return number(row.get("length"))


def _cell(row: dict[str, str], key: str) -> str:
    mean = Mean(number(row.get(key)), number(row.get(f"{key}_se")))
    return _written(mean, key, _count(row)) if math.isfinite(mean.value) else ""


def _written(mean: Mean, key: str, count: int, lowest: float = 0.0) -> str:
    """Returns one of FIGURES with its error, or with its range where all samples are alike."""
    if key in PERCENT and count:
        return written_percent(mean, count, FIGURES[key][1], lowest)
    return mean.written(FIGURES[key][1])


def _drawn_error(row: dict[str, str], key: str) -> float:
    """Returns the standard error; not a number for a share of samples that are all alike, which has none."""
    mean = Mean(number(row.get(key)), number(row.get(f"{key}_se")))
    return math.nan if key in PERCENT and are_alike(mean, _count(row)) else mean.error


def _count(row: dict[str, str]) -> int:
    """Returns the number of samples; 0 if the table does not say."""
    count = number(row.get("samples"))
    return int(count) if math.isfinite(count) and count > 0 else 0
