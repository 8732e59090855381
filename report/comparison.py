"""Several runs side by side: what differs in their configs, how well they do at equal tokens, and what they cost.

Runs may be of unequal length, so losses are compared at equal tokens: at the last validation that all of them have, or
else at the most tokens that all of them have read. Runs that differ in nothing but the seed are repetitions of one
setting: the spread of their losses is the noise that a difference between settings has to be held against.
"""

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from report.errors import ReportError
from report.metrics import CE_LOSS, EVAL_LOSS, STEP_SECONDS, TOKENS, TOKENS_PER_SECOND, WINDOW
from report.overview import Overview, overview
from report.run_folder import Row, RunFiles, is_number

SEEDS = ("seed", "data.seed")
IGNORED = ("name", "run_root", "stop_step", "checkpoint", "evaluation", "wandb", "logging", "launch", "watchdog")
"""Keys, or groups of keys, that do not change what a run learns."""
ABSENT = "-"


@dataclass(frozen=True)
class ComparedRun:
    """One run among others."""

    name: str
    overview: Overview
    differs: dict[str, Any]
    """Value of each key in which the runs differ; ABSENT where a run has no such key."""
    loss: float | None
    """Mean cross entropy of the last WINDOW rows up to the common tokens."""
    eval_loss: float | None
    """The last validation loss up to the common tokens."""
    tokens_per_second: float | None
    """Median of all rows."""
    alerts: int
    """Alerts raised, also those that are over."""
    process_hours: float | None
    """Hours of all processes within steps: GPU-hours on GPUs. Steps that were done again after a kill count once."""
    rows: list[Row] = field(repr=False)

    @property
    def score(self) -> float | None:
        """What runs are ranked by, the lower the better: the validation loss, or else the loss."""
        return self.loss if self.eval_loss is None else self.eval_loss


@dataclass(frozen=True)
class Setting:
    """Runs that differ in nothing but the seed."""

    differs: dict[str, Any]
    runs: list[ComparedRun]

    @property
    def mean(self) -> float | None:
        """The mean score of the runs; None if one has none."""
        scores = [run.score for run in self.runs]
        return None if None in scores else statistics.fmean(score for score in scores if score is not None)

    @property
    def spread(self) -> float | None:
        """The sample standard deviation of the scores over seeds; None of a single run."""
        scores = [run.score for run in self.runs if run.score is not None]
        return statistics.stdev(scores) if len(scores) > 1 else None


@dataclass(frozen=True)
class Comparison:
    """Runs, the best first, and what they are compared at."""

    runs: list[ComparedRun]
    keys: list[str]
    """Keys of the configs in which they differ."""
    tokens: int
    """Tokens at which they are compared: of the last validation that all have, or else the most that all have read."""
    is_evaluated: bool
    """Whether every run has a validation loss by then; otherwise the training loss ranks them."""

    @property
    def settings(self) -> list[Setting]:
        """Returns the settings, the one with the best mean first; one per run where the seed does not differ."""
        grouped: dict[str, Setting] = {}
        for run in self.runs:
            differs = {key: value for key, value in run.differs.items() if key not in SEEDS}
            grouped.setdefault(json.dumps(differs, default=str), Setting(differs, [])).runs.append(run)
        return sorted(grouped.values(), key=lambda setting: math.inf if setting.mean is None else setting.mean)


def compare(folders: Sequence[RunFiles]) -> Comparison:
    """Returns the comparison of two runs or more. Raises ReportError if one has nothing to compare."""
    if len(folders) < 2:
        raise ReportError("a comparison needs two runs or more: name their folders, such as runs/a runs/b")
    rows = [_rows(files) for files in folders]
    tokens = _common_tokens(rows)
    configs = [flat(files.read_config()) for files in folders]
    keys = differing(configs)
    names = _names(folders)
    losses = [_last_values(each, EVAL_LOSS, tokens, 1) for each in rows]
    runs = [
        ComparedRun(
            name=name,
            overview=overview(files),
            differs={key: config.get(key, ABSENT) for key in keys},
            loss=_mean(_last_values(each, CE_LOSS, tokens, WINDOW)),
            eval_loss=_mean(evaluated) if all(losses) else None,
            tokens_per_second=_median(
                [row[TOKENS_PER_SECOND] for row in each if is_number(row.get(TOKENS_PER_SECOND))]
            ),
            alerts=sum(event.get("event") == "alert" for event in files.read_events()),
            process_hours=_hours(files, each),
            rows=each,
        )
        for name, files, config, each, evaluated in zip(names, folders, configs, rows, losses, strict=True)
    ]
    runs.sort(key=lambda run: (math.inf if run.score is None else run.score, run.name))
    return Comparison(runs, keys, tokens, all(losses))


def _common_tokens(rows: Sequence[Sequence[Row]]) -> int:
    """Returns the tokens of the last validation that all runs have in common; without one, the most that all have read.

    A run that was cut off just before a validation has an older one, which would be held against newer ones of others.
    """
    validated = [{row[TOKENS] for row in each if is_number(row.get(EVAL_LOSS))} for each in rows]
    shortest = int(min(each[-1][TOKENS] for each in rows))
    return int(max(set.intersection(*validated), default=0)) or shortest


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns a config as dotted keys; lists stay whole."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found


def differing(configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Returns the keys whose values are not the same in all flat configs, in the configs' order, seeds last."""
    keys = dict.fromkeys(key for config in configs for key in config)
    found = [
        key
        for key in keys
        if key.split(".")[0] not in IGNORED
        and len({json.dumps(config.get(key, ABSENT), default=str, sort_keys=True) for config in configs}) > 1
    ]
    return sorted(found, key=lambda key: key in SEEDS)


def _rows(files: RunFiles) -> list[Row]:
    if not files.path.is_dir():
        raise ReportError(f"there is no run folder {files.path}: name one such as runs/demo")
    rows = [row for row in files.read_metrics() if is_number(row.get(TOKENS))]
    if not rows:
        raise ReportError(f"{files.path} has no step to compare: wait for its first one, or leave it out")
    return rows


def _names(folders: Sequence[RunFiles]) -> list[str]:
    """Returns the folders' names, with so many parents as tell them apart."""
    paths = [files.path.resolve() for files in folders]
    if len(set(paths)) < len(paths):
        twice = next(path for path in paths if paths.count(path) > 1)
        raise ReportError(f"{twice} is named twice: name each run once")
    depth = 1
    while len({path.parts[-depth:] for path in paths}) < len(paths):
        depth += 1
    return ["/".join(path.parts[-depth:]) for path in paths]


def _last_values(rows: Sequence[Row], name: str, tokens: int, most: int) -> list[float]:
    return [row[name] for row in rows if row[TOKENS] <= tokens and is_number(row.get(name))][-most:]


def _mean(values: Sequence[float]) -> float | None:
    return statistics.fmean(values) if values else None


def _median(values: Sequence[float]) -> float | None:
    return statistics.median(values) if values else None


def _hours(files: RunFiles, rows: Sequence[Row]) -> float | None:
    """Returns the hours of all processes; steps count with the processes of the last start."""
    seconds = [row[STEP_SECONDS] for row in rows if is_number(row.get(STEP_SECONDS))]
    sizes = [event.get("world_size") for event in files.read_events() if event.get("event") in ("start", "resume")]
    known = [size for size in sizes if is_number(size)]
    return sum(seconds) * known[-1] / 3600 if seconds and known else None
