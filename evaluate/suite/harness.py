"""lm-eval as a command of its own environment: a task that needs data runs alone, so that it stops no other.

    BATCH/                 lm-eval's results and samples, and log.txt with what it printed
    BATCH.json             score, standard error and samples of each task

Tasks that have scores are not run again.
"""

import json
import math
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from common.files import write_text_whole
from evaluate.errors import EvaluateError
from evaluate.results import Mean
from evaluate.scoring import contained
from evaluate.suite.suites import OWN_TASKS, Entry

ROOT = Path(__file__).parents[2]
PLACE = Path(".venv-lm-eval") / "bin" / "lm_eval"
OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
_ERROR = re.compile(r"^(\w+\.)*\w*(Error|Exception|Exit|NotFound)\b.*")


@dataclass(frozen=True)
class Score:
    """What a task has found, in percent."""

    value: float
    error: float | None
    """The standard error over samples; None where lm-eval gives none."""
    samples: int
    """How many were asked."""


@dataclass(frozen=True)
class Batch:
    """Tasks of one command."""

    entries: Sequence[Entry]
    """With the same length, solved examples and limit."""
    model: Path
    """The export, with YaRN or without."""
    out: Path
    """Where lm-eval writes."""


@dataclass(frozen=True)
class Harness:
    """How lm-eval is run."""

    command: Path
    device: str
    dtype: str
    batch_size: int
    is_offline: bool

    def arguments(self, batch: Batch) -> list[str]:
        """Returns the command line."""
        entry = batch.entries[0]
        arguments = [str(self.command), "--model", "hf"]
        arguments += ["--model_args", f"pretrained={batch.model},trust_remote_code=True,dtype={self.dtype}"]
        arguments += ["--device", self.device, "--batch_size", str(self.batch_size)]
        arguments += ["--tasks", ",".join(each.task for each in batch.entries)]
        if entry.is_own:
            arguments += ["--include_path", OWN_TASKS]
        if entry.length is not None:
            arguments += ["--metadata", json.dumps({"max_seq_lengths": [entry.length]})]
        if entry.num_fewshot is not None:
            arguments += ["--num_fewshot", str(entry.num_fewshot)]
        if entry.limit is not None:
            arguments += ["--limit", str(entry.limit)]
        return [*arguments, "--log_samples", "--output_path", str(batch.out)]

    def shown(self, batch: Batch) -> str:
        """Returns that command line as it is typed in the top folder of the clone."""
        offline = [f"{name}={value}" for name, value in OFFLINE.items()] if self.is_offline else []
        return " ".join([*offline, shlex.join(self.arguments(batch))])

    def run(self, batch: Batch) -> dict[str, Score] | str:
        """Runs a batch, or takes what it has found before. Returns scores by task, or why there are none, in a line."""
        out, done = batch.out, batch.out.with_name(f"{batch.out.name}.json")
        if done.is_file():
            found = {task: Score(**score) for task, score in json.loads(done.read_text()).items()}
            if found.keys() >= {entry.task for entry in batch.entries}:
                return found
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir(parents=True)
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}  # see docs/suites.md
        environment |= {"HF_MODULES_CACHE": str(out.parent / "modules")} | (OFFLINE if self.is_offline else {})
        with (out / "log.txt").open("wb") as log:
            ended = subprocess.run(
                self.arguments(batch), cwd=ROOT, env=environment, stdout=log, stderr=log, check=False
            )
        if ended.returncode:
            return f"{_reason((out / 'log.txt').read_text(errors='replace'))} (all of it: {out / 'log.txt'})"
        try:
            scores = {entry.task: read_score(entry, out) for entry in batch.entries}
        except EvaluateError as error:
            return str(error)
        write_text_whole(done, json.dumps({task: asdict(each) for task, each in scores.items()}) + "\n", durable=False)
        return scores


def find_command(given: Path | None) -> Path:
    """Returns where lm_eval is. Raises EvaluateError with how to make it."""
    places = [Path(PLACE), ROOT / PLACE] if given is None else [given, given / "lm_eval", given / "bin" / "lm_eval"]
    for place in places:
        if place.is_file():
            return place.absolute()
    raise EvaluateError(
        f"{given or PLACE} is absent: `make lm-eval` builds it in the clone; --lm-eval PATH/bin/lm_eval names another"
    )


def read_score(entry: Entry, out: Path) -> Score:
    """Returns what lm-eval has written about a task. Raises EvaluateError if the metric is not there."""
    if entry.is_ruler:
        metric = entry.metric.partition(",")[0]
        mean = Mean.of([_ruler_score(entry, row, metric) for row in _samples(entry, out)])
        return Score(100 * mean.value, None if math.isnan(mean.error) else 100 * mean.error, len(_samples(entry, out)))
    paths = sorted(out.rglob("results_*.json"))
    found: dict[str, Any] = json.loads(paths[-1].read_text()) if paths else {}
    own = found.get("results", {}).get(entry.task, {})
    if entry.metric not in own:
        raise EvaluateError(f"{out} has no {entry.metric} of {entry.task}, but {', '.join(own) or 'nothing'}")
    name, _, kind = entry.metric.partition(",")
    error = own.get(f"{name}_stderr,{kind}")
    counts = [each["effective"] for task, each in found["n-samples"].items() if task.startswith(entry.task)]
    return Score(100 * own[entry.metric], 100 * error if isinstance(error, float) else None, sum(counts))


def _samples(entry: Entry, out: Path) -> list[dict[str, Any]]:
    paths = sorted(out.rglob(f"samples_{entry.task}_*.jsonl"))
    if not paths:
        raise EvaluateError(f"{out} has no samples of {entry.task}: lm-eval wrote none")
    return [json.loads(line) for line in paths[-1].read_text().splitlines()]


def _ruler_score(entry: Entry, row: dict[str, Any], metric: str) -> float:
    if entry.any_answer:
        return float(contained(row["filtered_resps"][0], row["doc"]["outputs"]) > 0)
    if metric not in row:
        raise EvaluateError(f"lm-eval has recorded no {metric} of {entry.task}, but {', '.join(row)}")
    return float(row[metric])


def _reason(log: str) -> str:
    """Returns the last error of a log, as far as a line goes."""
    errors = [line.strip() for line in log.splitlines() if _ERROR.match(line.strip())]
    lines = errors or [line.strip() for line in log.splitlines() if line.strip()] or ["lm_eval said nothing"]
    return lines[-1][:200]
