"""Results on disk: a folder with one JSON-lines file for each task and length, a row for each sample.

    settings.json              what the rows depend on: sizes, seed, digests of weights, tokenizer and haystack
    niah_single_1-4096.jsonl   index, size, tokens, gold, output, score, nll, answer_tokens, and wrong_nll for tasks
                               that have wrong answers to choose from
    table.md, table.csv        means with their standard errors, over all rows

A folder is gone on with: samples that it has are not run again. Other settings need another folder.
"""

import csv
import io
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.files import write_text_whole
from common.json_lines import JsonLines, read_json_lines
from common.words import config_text
from evaluate.errors import EvaluateError
from report.evaluation.means import Mean, written_percent

Row = dict[str, Any]
KEYS = {"index", "tokens", "score", "nll", "answer_tokens"}  # of a row, without which it has no part in means
HEADER = ("task", "length", "samples", "score", "score_se", "nll", "nll_se", "tokens", "choice", "choice_se")


@dataclass(frozen=True)
class Summary:
    """The samples of a task at a length, in numbers."""

    task: str
    length: int
    num_samples: int
    score: Mean | None
    """In percent; None if nothing was generated."""
    nll: Mean
    """Of the right answer, per token, in nats."""
    num_tokens: float
    """Of the prompts and what is generated, on average."""
    choice: Mean | None = None
    """In percent: how often the right answer is more likely than the wrong ones; None where there are none."""


class Results:
    """The folder of one model's results."""

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        """Creates the folder, or opens one with the same settings. Raises EvaluateError if it has others."""
        keep_settings(folder, settings)
        self.folder = folder

    def rows(self, task: str, length: int) -> dict[int, Row]:
        """Returns the rows that there are, by the index of their samples; two processes may have written one twice."""
        rows = read_json_lines(self._path(task, length))
        return {row["index"]: row for row in rows if row.keys() >= KEYS}

    def writer(self, task: str, length: int) -> JsonLines:
        """Returns the file to which rows are appended."""
        return JsonLines(self._path(task, length))

    def write_tables(self) -> None:
        """Writes both tables, of all rows that the folder has."""
        summaries = []
        for path in sorted(self.folder.glob("*-*.jsonl")):
            task, _, length = path.stem.rpartition("-")
            if length.isdecimal() and (rows := self.rows(task, int(length))):
                summaries.append(summary(task, int(length), list(rows.values())))
        write_text_whole(self.folder / "table.md", markdown(summaries), durable=False)
        write_text_whole(self.folder / "table.csv", csv_table(summaries), durable=False)

    def _path(self, task: str, length: int) -> Path:
        return self.folder / f"{task}-{length}.jsonl"


def keep_settings(folder: Path, settings: dict[str, Any]) -> None:
    """Writes what the rows of a folder depend on, or compares it. Raises EvaluateError if it has rows of others."""
    path = folder / "settings.json"
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        write_text_whole(path, json.dumps(settings, indent=2) + "\n", durable=False)
        return
    try:
        found = json.loads(path.read_text())
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise EvaluateError(f"{path} is damaged, so it is not known what these results are of: give another --out")
    other = [key for key in sorted({*found, *settings}) if found.get(key) != settings.get(key)]
    if other:
        there, here = (config_text(each.get(other[0])) for each in (found, settings))
        raise EvaluateError(
            f"{folder} has results of other settings ({other[0]}: {there} there, {here} here): give another --out"
        )


def summary(task: str, length: int, rows: Sequence[Row]) -> Summary:
    """Returns the means over rows, at least one."""
    scores = [100 * row["score"] for row in rows if row["score"] is not None]
    choices = [100.0 * (row["nll"] < min(row["wrong_nll"])) for row in rows if "wrong_nll" in row]
    return Summary(
        task,
        length,
        len(rows),
        Mean.of(scores) if scores else None,
        Mean.of([row["nll"] / row["answer_tokens"] for row in rows]),
        math.fsum(row["tokens"] for row in rows) / len(rows),
        Mean.of(choices) if choices else None,
    )


def markdown(summaries: Sequence[Summary]) -> str:
    """Returns a Markdown table: scores and choices in percent, nats per token of the right answer, each with its SE."""
    lines = ["| task | length | samples | score, % | NLL, nats per token | choice, % |", "|---|---|---|---|---|---|"]
    for each in summaries:
        count = each.num_samples
        score, choice = ("" if mean is None else written_percent(mean, count, 1) for mean in (each.score, each.choice))
        figures = f"{score} | {each.nll.written(3)} | {choice}"
        lines.append(f"| {each.task} | {each.length} | {each.num_samples} | {figures} |")
    return "\n".join(lines) + "\n"


def csv_table(summaries: Sequence[Summary]) -> str:
    """Returns the same numbers, unrounded, as CSV with a header."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(HEADER)
    for each in summaries:
        score, nll, choice = (
            (None, None) if mean is None else (mean.value, mean.error) for mean in (each.score, each.nll, each.choice)
        )
        writer.writerow([each.task, each.length, each.num_samples, *score, *nll, each.num_tokens, *choice])
    return out.getvalue()
