"""A whole replication, in one folder; the same command again does what is left.

settings.json, tokenizer.json   what everything depends on      scores/*.json     a file for each scored run
data/stage-N/seed-S             rows of tokens                  rates.json        the learning rate of each scheme
runs/NAME                       runs of the trainer             findings.json, table.md, page.html     the results
"""

import json
import math
import multiprocessing
import os
import signal
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from common.files import write_text_whole
from common.processes import end_with_parent
from common.words import config_text
from evaluate.errors import EvaluateError
from evaluate.replicate.config import ReplicateConfig
from evaluate.replicate.corpus import write_rows, write_tokenizer
from evaluate.replicate.findings import chosen_rates, findings, scores_path
from evaluate.replicate.runs import Report, Run, backbone, compared_runs, data_folder, train, tuning_runs
from evaluate.replicate.score import score_run
from report.replication import markdown, page

AFTER_TRAINING = ("probes", "primary", "parallel", "draws", "seeds")  # settings that may differ in a later start


def replicate(config: ReplicateConfig, name: str, root: Path, report: Report) -> dict[str, Any]:
    """Does what is left of a replication in `root`, and returns its findings.

    Raises EvaluateError if the folder is of other settings, or a run fails, and KeyboardInterrupt after a signal.
    """
    _check_settings(config, root)
    tokenizer = root / "tokenizer.json"
    if not tokenizer.is_file():
        write_tokenizer(config.corpus, tokenizer)
    seeds = [*config.tuning.seeds, *config.seeds]
    _make_data(config, seeds, root, report)
    train([backbone(config, seed) for seed in seeds], config, root, report)
    rates = _rates(config, root, report)
    runs = compared_runs(config, rates)
    train(runs, config, root, report)
    _score(config, runs, root, report)
    found = findings(config, runs, rates, root)
    write_text_whole(root / "findings.json", json.dumps(_plain(found), indent=1, allow_nan=False) + "\n", durable=False)
    write_text_whole(root / "table.md", markdown(found, name), durable=False)
    write_text_whole(root / "page.html", page(found, name), durable=False)
    return found


def _check_settings(config: ReplicateConfig, root: Path) -> None:
    """Writes settings.json. Raises EvaluateError if the folder has runs of other settings."""
    now = {key: value for key, value in asdict(config).items() if key not in AFTER_TRAINING}
    now = json.loads(json.dumps(now))
    path = root / "settings.json"
    if path.is_file():
        before = json.loads(path.read_text())
        if other := [key for key in now if before.get(key) != now[key]]:
            there, here = (config_text(each.get(other[0])) for each in (before, now))
            raise EvaluateError(
                f"{root} was made with other settings ({other[0]}: {there} there, {here} here): give another --out"
            )
    root.mkdir(parents=True, exist_ok=True)
    write_text_whole(path, json.dumps(now, indent=1) + "\n", durable=False)


def _plain(value: Any) -> Any:
    """Returns plain data with null for what is no finite number, which JSON does not have."""
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _make_data(config: ReplicateConfig, seeds: Sequence[int], root: Path, report: Report) -> None:
    jobs = []
    for seed in seeds:
        for stage, steps in ((1, config.stage_1.steps), (2, config.stage_2.steps)):
            folder = root / data_folder(stage, seed)
            if not (folder / "files.txt").is_file():
                jobs.append((config, root / "tokenizer.json", f"{seed}/stage-{stage}", steps, folder))
    _in_processes(config.parallel, _rows_of, jobs, lambda done: report(f"rows of {done}/{len(jobs)} stages made"))


def _rows_of(config: ReplicateConfig, tokenizer: Path, name: str, steps: int, folder: Path) -> None:
    write_rows(config.corpus, Tokenizer.from_file(str(tokenizer)), name, steps * config.batch_rows, folder)


def _rates(config: ReplicateConfig, root: Path, report: Report) -> dict[str, float]:
    """Returns the rate of each scheme, which is kept in rates.json: it never changes once runs depend on it."""
    path = root / "rates.json"
    if not path.is_file():
        runs = tuning_runs(config)
        train(runs, config, root, report)
        _score(config, runs, root, report)
        rates = chosen_rates(config, runs, root)
        write_text_whole(path, json.dumps(rates, indent=1) + "\n", durable=False)
        report("rates: " + ", ".join(f"{scheme} {rate:g}" for scheme, rate in rates.items()))
    found: dict[str, float] = json.loads(path.read_text())
    return found


def _score(config: ReplicateConfig, runs: Sequence[Run], root: Path, report: Report) -> None:
    tokenizer = root / "tokenizer.json"
    jobs = [(run.export(root), config, tokenizer, scores_path(root, run)) for run in runs]
    _in_processes(config.parallel, score_run, jobs, lambda done: report(f"{done}/{len(jobs)} runs scored"))


def _in_processes(
    count: int, work: Callable[..., None], jobs: Sequence[tuple[Any, ...]], report: Callable[[int], None]
) -> None:
    """Does all jobs, `count` at a time, each in a fresh process's state: torch and threads do not survive a fork."""
    if not jobs:
        return
    with ProcessPoolExecutor(
        min(count, len(jobs)),
        multiprocessing.get_context("spawn"),
        end_with_parent,  # whose end by SIGKILL they do not see
        (os.getpid(), signal.SIGKILL),
    ) as pool:
        futures = [pool.submit(work, *job) for job in jobs]
        try:
            for done, future in enumerate(as_completed(futures), 1):
                future.result()
                report(done)
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
