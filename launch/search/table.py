"""The trials of a search as a table: the best first, then those that were pruned or failed."""

import csv
import io
import math
from collections.abc import Sequence
from pathlib import Path

from optuna.trial import FrozenTrial

from common.files import write_text_whole
from launch.search.study import REASON, STATES
from report.comparison_table import aligned
from train.compose.search import Search


def write_table(search: Search, trials: Sequence[FrozenTrial], path: Path) -> str:
    """Writes the trials as CSV, unrounded; returns the table for people.

    The loss of a trial is the one of the last step at which it stopped: those of pruned trials are of earlier steps.
    """
    ordered = sorted(trials, key=lambda trial: (-_step(trial), _loss(trial), trial.number))
    keys = list(search.space)
    rows = [
        [
            search.name_of(trial.number),
            STATES[trial.state].value,
            _step(trial),
            trial.intermediate_values.get(_step(trial), ""),
            *(trial.params[key] for key in keys),
            trial.user_attrs.get(REASON, ""),
        ]
        for trial in ordered
    ]
    header = ["trial", "state", "step", "eval loss", *keys, "reason"]
    with_header = [header, *rows]
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(with_header)
    write_text_whole(path, out.getvalue(), durable=False)
    shown = [[_shown(cell) for cell in row] for row in with_header]
    return "\n".join(aligned(shown))


def _shown(cell: object) -> str:
    return f"{cell:.5g}" if isinstance(cell, float) else str(cell)


def _step(trial: FrozenTrial) -> int:
    return max(trial.intermediate_values, default=0)


def _loss(trial: FrozenTrial) -> float:
    return trial.intermediate_values.get(_step(trial), math.inf)
