"""The runs of a replication: `python -m launch`, several at a time, each the trainer's own. What is finished is kept.

    backbone-seed-S        RoPE, stage 1
    tune-SCHEME-RATE-...   stage 2 from the backbone of a tuning seed, for each rate
    SCHEME-seed-S          stage 2 from the backbone of its seed, at the rate that was best for the scheme

A run that was interrupted goes on from its checkpoint; when this process dies, even by SIGKILL, its runs save and stop.
Each prints to console.log in its folder.
"""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from common.processes import PARENT
from evaluate.errors import EvaluateError
from evaluate.replicate.config import BASELINE, ReplicateConfig, StageConfig
from evaluate.replicate.corpus import ANSWER_ID

LOG = "console.log"
STOPPED = 75  # exit code of a run that a signal has stopped, and that can go on
Report = Callable[[str], None]


@dataclass(frozen=True)
class Run:
    """One run of the trainer."""

    name: str
    stage: int
    seed: int
    scheme: str
    rate: float

    def folder(self, root: Path) -> Path:
        """Returns its folder."""
        return root / "runs" / self.name

    def export(self, root: Path) -> Path:
        """Returns the weights that it leaves at its end."""
        return self.folder(root) / "hf"

    def is_finished(self, root: Path) -> bool:
        """Returns whether it has left its weights, which appear whole."""
        return (self.export(root) / "config.json").is_file()


def backbone(config: ReplicateConfig, seed: int) -> Run:
    """Returns the run of stage 1 of a seed."""
    return Run(f"backbone-seed-{seed}", 1, seed, BASELINE, config.backbone_rate)


def tuning_runs(config: ReplicateConfig) -> list[Run]:
    """Returns a run for each scheme, rate and tuning seed."""
    tuning = config.tuning
    return [
        Run(f"tune-{scheme}-{rate:g}-seed-{seed}", 2, seed, scheme, rate)
        for seed in tuning.seeds
        for scheme in config.schemes
        for rate in tuning.rates
    ]


def compared_runs(config: ReplicateConfig, rates: dict[str, float]) -> list[Run]:
    """Returns a run for each scheme and seed, the seeds one after the other."""
    return [
        Run(f"{scheme}-seed-{seed}", 2, seed, scheme, rates[scheme])
        for seed in config.seeds
        for scheme in config.schemes
    ]


def command(run: Run, config: ReplicateConfig, root: Path) -> list[str]:
    """Returns the command of a run."""
    stage: StageConfig = config.stage_1 if run.stage == 1 else config.stage_2
    decay = stage.steps + 1 if stage.decay_steps is None else stage.decay_steps
    arguments = {
        "experiment": "replicate",
        "name": run.name,
        "run_root": root / "runs",
        "seed": run.seed,
        "positions": run.scheme,
        "data.root": root / data_folder(run.stage, run.seed),
        "data.file_list": root / data_folder(run.stage, run.seed) / "files.txt",
        "data.tokenizer": root / "tokenizer.json",
        "sequence_length": config.corpus.row_length,
        "model.vocab_size": config.corpus.vocab_size,
        "global_batch_size": config.batch_rows,
        "max_steps": stage.steps,
        "schedule.warmup_steps": stage.warmup_steps,
        "schedule.decay_steps": decay,
        "optimizer.lr": f"{run.rate:g}",
        "loss.answers_after": ANSWER_ID if config.corpus.answers_only else "null",
    }
    if run.stage == 2:
        arguments["init_from"] = backbone(config, run.seed).export(root)
    given = [f"{key}={value}" for key, value in arguments.items()]
    return [sys.executable, "-m", "launch", *given, *config.run]


def data_folder(stage: int, seed: int) -> Path:
    """Returns where the rows of a stage of a seed are."""
    return Path("data") / f"stage-{stage}" / f"seed-{seed}"


def train(runs: Sequence[Run], config: ReplicateConfig, root: Path, report: Report) -> None:
    """Runs all that are not finished, `config.parallel` at a time.

    Raises EvaluateError with the command of a run that fails, once the others at work have ended, and KeyboardInterrupt
    after a signal has stopped them.
    """
    waiting = [run for run in runs if not run.is_finished(root)]
    if not waiting:
        return
    pool = _Pool(config, root)
    with ThreadPoolExecutor(config.parallel) as threads:
        futures = {threads.submit(pool.run, run): run for run in waiting}
        try:
            for done, future in enumerate(as_completed(futures), len(runs) - len(waiting) + 1):
                future.result()
                if not pool.is_stopped:
                    report(f"{futures[future].name}: trained ({done}/{len(runs)})")
        except BaseException:  # Ctrl-C too; the pool's exit waits for the runs
            pool.stop()
            raise
    if pool.is_stopped:
        raise KeyboardInterrupt


class _Pool:
    """The processes that train now."""

    def __init__(self, config: ReplicateConfig, root: Path) -> None:
        self.is_stopped = False
        self._config, self._root = config, root
        self._lock = threading.Lock()
        self._processes: set[subprocess.Popen[bytes]] = set()

    def run(self, run: Run) -> None:
        """Runs one to its end, if nothing has stopped the pool. Raises EvaluateError."""
        folder = run.folder(self._root)
        folder.mkdir(parents=True, exist_ok=True)
        arguments = command(run, self._config, self._root)
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        threads = str(max(1, cores // self._config.parallel))
        environment = {"OMP_NUM_THREADS": threads, **os.environ, PARENT: str(os.getpid())}
        with (folder / LOG).open("ab") as log:
            with self._lock:
                if self.is_stopped:
                    return
                # A session of its own: Ctrl-C reaches this process, which passes it on once.
                process = subprocess.Popen(
                    arguments, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
                )
                self._processes.add(process)
            code = process.wait()
            with self._lock:
                self._processes.discard(process)
        if code == STOPPED or (self.is_stopped and code != 0):
            self.stop()
            return
        if code != 0 or not run.is_finished(self._root):
            self.stop()
            raise EvaluateError(f"{run.name} ended with code {code}: see {folder / LOG}")

    def stop(self) -> None:
        """Asks all processes to save and to stop; none is started any more."""
        with self._lock:
            self.is_stopped = True
            for process in self._processes:
                process.send_signal(signal.SIGTERM)
