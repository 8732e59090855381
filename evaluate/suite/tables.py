"""Our scores beside the paper's, with what the paper measured in another way."""

import csv
import io
import math
from collections.abc import Mapping, Sequence

from evaluate.suite.harness import Score
from evaluate.suite.suites import Entry
from report.evaluation.means import Mean, written_percent

Results = Sequence[tuple[Entry, Score | str]]
"""Each task with its score, or with why there is none."""


def markdown(results: Results, size: str, paper: Mapping[str, Mapping[str, float]]) -> str:
    """Returns a table of scores in percent, and below it what differs."""
    differs = list(dict.fromkeys(entry.differs for entry, _ in results if entry.differs))
    notes = {text: number + 1 for number, text in enumerate(differs)}
    head = ["task", "tokens", "YaRN", "ours, %", "samples", *(f"{scheme} {size}" for scheme in paper), "differs"]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for entry, score in results:
        note = str(notes[entry.differs]) if entry.differs else ""
        own = _cell(score) if isinstance(score, Score) else "not run"
        count = str(score.samples) if isinstance(score, Score) else ""
        place = ["" if entry.length is None else f"{entry.length:,}", f"{entry.factor:g}" if entry.factor else ""]
        numbers = [_number(paper[scheme].get(entry.column or "")) for scheme in paper]
        lines.append(f"| {' | '.join([entry.task, *place, own, count, *numbers, note])} |")
    said = [f"{number}. {text}" for text, number in notes.items()]
    return "\n".join([*lines, "", *said]) + "\n"


def csv_table(results: Results, size: str, paper: Mapping[str, Mapping[str, float]]) -> str:
    """Returns the same, unrounded, as CSV with a header; the score of what was not run is empty."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    schemes = [f"paper_{scheme}_{size}" for scheme in paper]
    writer.writerow(["task", "length", "yarn", "score", "score_se", "samples", *schemes, "differs", "not_run"])
    for entry, score in results:
        own = [score.value, score.error, score.samples] if isinstance(score, Score) else [None, None, None]
        numbers = [paper[scheme].get(entry.column or "") for scheme in paper]
        why = "" if isinstance(score, Score) else score
        writer.writerow([entry.task, entry.length, entry.factor, *own, *numbers, entry.differs, why])
    return out.getvalue()


def _cell(score: Score) -> str:
    mean = Mean(score.value, math.nan if score.error is None else score.error)
    return written_percent(mean, score.samples, 1)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:g}"
