"""Runs that differ in their start layer (arXiv 2512.14391, figure 5): loss and probe scores by where positions begin.

`gather` reads finished runs and the evaluation folders of their models; the table lies in start-layers.csv of a folder
of its own, from which the section is drawn.
"""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from model.config import PositionsConfig
from model.errors import ModelError
from model.positions import learned_layers
from report.drawing import Point, figure, lines, panels, section, table
from report.errors import ReportError
from report.evaluation.folder import Evaluated, evaluations_of, number, open_folders
from report.evaluation.means import Mean, are_alike, range_of_alike
from report.evaluation.scores import TABLE as SCORES
from report.metrics import EVAL_LOSS, STEP, TOKENS
from report.run_folder import FINISHED, RunFiles, is_number

TABLE = "start-layers.csv"
FIELDS = ("run", "start_layer", "measure", "value", "error", "note")
NONE = "none"
HEAD = ["measure", "start layer", "run", "value"]
LEAD = (
    "Runs that differ in the lowest layer that learns its positions; `none` is a model without learned positions. One "
    "run of each start layer is one training seed: a difference that is smaller than that between seeds says nothing, "
    "nor does one between runs of different numbers of tokens, as those that have not finished (marked) are. "
    "The paper (1B, start layers 3, 5 and 7) prints no numbers, and finds all three robust, with better general scores "
    "and worse needle scores the higher the start layer is."
)


@dataclass(frozen=True)
class Measured:
    """One number of one run."""

    run: str
    start_layer: str
    measure: str
    value: float
    error: float
    note: str


def gather(runs: Sequence[Path], evaluations: Path) -> list[Measured]:
    """Returns the last validation loss of each run, and the probe scores that its evaluation folder has.

    Raises ReportError for a folder without a config, and for runs with nothing to compare.
    """
    found = []
    for path in runs:
        files = RunFiles(path)
        config = files.read_config()
        if not config:
            raise ReportError(f"{path} has no config.yaml: give the folder of a run, such as runs/demo")
        start, unfinished = start_layer(config, path), unfinished_at(files)
        mark = f"; unfinished, {unfinished}" if unfinished else ""
        losses = [row for row in files.read_metrics() if is_number(row.get(EVAL_LOSS))]
        if losses:
            note = f"step {losses[-1][STEP]}, {losses[-1].get(TOKENS, 0):,} tokens{mark}"
            found.append(Measured(files.path.name, start, "validation loss", losses[-1][EVAL_LOSS], float("nan"), note))
        scores = _scores(files.path.name, start, evaluations)
        found += [replace(each, note=f"{each.note}{mark}") for each in scores]
    if not found:
        raise ReportError("these runs have no validation loss and no probe scores: nothing to compare")
    return found


def start_layer(config: Mapping[str, Any], path: Path) -> str:
    """Returns the lowest layer that learns positions, or `none`. Raises ReportError if the config does not say."""
    try:
        stated = config["positions"]
        positions = PositionsConfig(stated["scheme"], start_layer=stated["start_layer"], layers=stated["layers"])
        return str(min(learned_layers(positions, config["model"]["num_layers"]), default=NONE))
    except (KeyError, TypeError, ModelError) as error:
        raise ReportError(f"{path}/config.yaml does not say which layers learn positions ({error})") from error


def unfinished_at(files: RunFiles) -> str:
    """Returns `step N of M` for a run that has not reached its last step, else nothing."""
    ends = [each for each in files.read_events() if each.get("event") in ("start", "resume", "stop")]
    done, last = max((row[STEP] for row in files.read_metrics()), default=0), files.read_config().get("max_steps")
    if any(each.get("reason") == FINISHED for each in ends[-1:]) or not isinstance(last, int) or done >= last:
        return ""
    return f"step {done:,} of {last:,}"


def _scores(run: str, start: str, evaluations: Path) -> list[Measured]:
    """Returns the probe scores of the newest evaluation folder of a run, as `python -m evaluate probe` names it."""
    folders = [each for each in evaluations_of(run, evaluations) if (each / SCORES).is_file()]
    if not folders:
        return []
    found = []
    for row in open_folders(folders[:1])[0].table(SCORES):
        for key, said in (("score", "score, %"), ("nll", "NLL")):
            mean, count = Mean(number(row.get(key)), number(row.get(f"{key}_se"))), number(row.get("samples"))
            if math.isnan(mean.value):
                continue
            note = f"{folders[0].name}, {row.get('samples')} samples"
            if key == "score" and count >= 1 and are_alike(mean, int(count)):
                low, high = range_of_alike(mean.value, int(count))
                mean, note = Mean(mean.value, math.nan), f"{note}, all alike: 95 % range [{low:.1f}, {high:.1f}]"
            measure = f"{row['task']}, {row['length']} tokens: {said}"
            found.append(Measured(run, start, measure, mean.value, mean.error, note))
    return found


def csv_table(found: Sequence[Measured]) -> str:
    """Returns the numbers as CSV."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(FIELDS)
    writer.writerows([getattr(each, name) for name in FIELDS] for each in found)
    return out.getvalue()


def start_layer_rows(found: Sequence[Measured]) -> list[list[str]]:
    """Returns the cells under `HEAD`, measure by measure, by start layer."""
    cells = []
    for measure in dict.fromkeys(each.measure for each in found):
        for each in sorted((each for each in found if each.measure == measure), key=_order):
            error = f" ± {each.error:.3f}" if each.error == each.error else ""
            cells.append([measure, each.start_layer, each.run, f"{each.value:.3f}{error} ({each.note})"])
    return cells


def start_layers(folders: Sequence[Evaluated]) -> str | None:
    """Returns the section, or None if no folder has such a table."""
    found = []
    for folder in folders:
        for row in folder.table(TABLE):
            if all(name in row for name in FIELDS):
                texts = (row["run"], row["start_layer"], row["measure"])
                found.append(Measured(*texts, number(row["value"]), number(row["error"]), row["note"]))
    if not found:
        return None
    labels = list(dict.fromkeys(each.start_layer for each in sorted(found, key=_order)))
    figures = []
    for measure in dict.fromkeys(each.measure for each in found):
        own = sorted((each for each in found if each.measure == measure), key=_order)
        points = [Point(each.start_layer, each.value, each.error) for each in own]
        drawn = lines({"runs": points}, labels, colors={"runs": folders[0].color}, show="{:.4g}".format)
        figures.append(figure(f"{measure}, by start layer", drawn))
    return section("Start layers", LEAD, panels(figures) + table(HEAD, start_layer_rows(found)))


def _order(each: Measured) -> tuple[bool, int, str]:
    is_none = not each.start_layer.isdigit()
    return is_none, 0 if is_none else int(each.start_layer), each.run
