"""A real two-rank job of `python -m launch`, which is disturbed and started again until it is done.

All that belongs to it lies in one folder: the token files, the run on a disk of its own, the cache of fetched files,
the folder for temporary files, and the log of what it printed. Its processes carry a mark in their environment, by
which those are found that have lost their parent.
"""

import contextlib
import os
import random
import subprocess
import sys
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path

import psutil

from common.json_lines import read_json_lines
from tests.train.tiny import LENGTH, VOCAB_SIZE
from train.run_folder import RunFolder

ROOT = Path(__file__).parents[2]
HANG_SECONDS = 900.0  # after which a wait fails: only to end a hang
INTERVAL = 3  # steps between two checkpoints
ENDLESS = 100_000  # a last step that no launch reaches
MARK = "CHAOS_JOB"  # environment variable
SETTINGS = (
    "experiment=demo",
    "data=olmo2-stage2",
    "data.eos_token_id=0",
    f"model.vocab_size={VOCAB_SIZE}",
    "model.hidden_size=32",
    "model.intermediate_size=48",
    "model.num_layers=3",
    "model.num_heads=2",
    "model.eos_token_id=0",
    "model.pad_token_id=0",
    "positions.start_layer=1",
    f"sequence_length={LENGTH}",
    "global_batch_size=8",
    "micro_batch_size=2",
    "init_from=null",
    "schedule.warmup_steps=2",
    "schedule.decay_steps=100000",
    f"checkpoint.interval={INTERVAL}",
    "position_watch.interval=10",
    "data.num_workers=1",
    "logging.report_seconds=3",
    "launch.processes=2",
)


class Started(ABC):
    """A run that is waited for by what it writes into its folder."""

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder

    @property
    @abstractmethod
    def is_alive(self) -> bool:
        """Whether a launch is under way."""

    def until(self, condition: Callable[[], object], *, pause: float = 0.005, only_alive: bool = True) -> None:
        """Waits for `condition`, or until the launch ends. Raises AssertionError after a hang."""
        deadline = time.monotonic() + HANG_SECONDS
        while not condition() and (self.is_alive or not only_alive):
            assert time.monotonic() < deadline, "nothing happens"
            time.sleep(pause)

    def last_step(self) -> int:
        """Returns the last logged step."""
        rows = read_json_lines(self.folder.metrics)
        return int(rows[-1]["step"]) if rows else 0

    def num_saved(self) -> int:
        """Returns how many checkpoints were published."""
        return sum(event["event"] == "checkpoint" for event in self.folder.read_events())

    def until_steps(self, number: int) -> None:
        """Waits until so many more steps are logged, or until the launch ends."""
        last_step = self.last_step() + number
        self.until(lambda: self.last_step() >= last_step)


class Job(Started):
    """One run, and the launch of it that is under way, if any."""

    def __init__(self, root: Path, name: str, disk: Path, data_root: str, *extra: str) -> None:
        """Keeps the run in `disk`, and reads token files below `data_root`; `root`/tokens/files.txt lists them."""
        self.root, self.name, self.disk, self.data_root = root, name, disk, data_root
        super().__init__(RunFolder(disk / name))
        self.log = root / f"{name}.log"
        self.cache = root / f"{name}-cache"
        self.temporary = root / f"{name}-tmp"
        self.temporary.mkdir()
        self.mark = uuid.uuid4().hex
        self._extra = (f"data.root={data_root}", f"data.file_list={root / 'tokens/files.txt'}", *extra)
        self._process: subprocess.Popen[bytes] | None = None
        self._log_start = 0  # of what the present launch printed

    def start(self, zero_stage: int, last_step: int = ENDLESS, *extra: str) -> None:
        """Launches it."""
        self._log_start = self.log.stat().st_size if self.log.exists() else 0
        settings = [f"run_root={self.disk}", f"name={self.name}", f"data.cache_dir={self.cache}", *self._extra]
        command = [sys.executable, "-m", "launch", *SETTINGS, *settings]
        command += [f"engine.zero_stage={zero_stage}", f"max_steps={last_step}", *extra]
        environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
        environment |= {MARK: self.mark, "TMPDIR": str(self.temporary)}
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=output)

    @property
    def launcher(self) -> subprocess.Popen[bytes]:
        """The launcher of the last launch."""
        assert self._process is not None
        return self._process

    @property
    def is_alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def printed(self) -> str:
        """Returns what the last launch printed so far."""
        return self.log.read_bytes()[self._log_start :].decode(errors="replace")

    def wait(self) -> int:
        """Waits for the launch and everything that it started; returns the launcher's exit code."""
        code = self.launcher.wait(timeout=HANG_SECONDS)
        self.until(lambda: not self.processes(), only_alive=False)
        return code

    def processes(self) -> list[psutil.Process]:
        """Returns every process of any launch of this job, with or without a parent, without those that are ending."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                if process.status() != psutil.STATUS_ZOMBIE and process.environ().get(MARK) == self.mark:
                    found.append(process)
        return found

    def descendants(self) -> list[psutil.Process]:
        """Returns the processes below the launcher."""
        try:
            return psutil.Process(self.launcher.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []


def wait_for(moment: str, job: Job, rng: random.Random) -> None:
    """Waits for a moment in a launch: start, step, save, published or conversion; or until the launch ends."""
    if moment == "start":
        num_processes = rng.choice([0, 1, 3])  # none, torchrun, its ranks
        job.until(lambda: len(job.descendants()) >= num_processes, pause=0.05)
        time.sleep(rng.uniform(0, 2))
    elif moment == "conversion":
        job.until(lambda: "converting " in job.printed())
        time.sleep(rng.uniform(0, 0.2))
    else:
        wait_in_steps(moment, job, rng)


def wait_in_steps(moment: str, job: Started, rng: random.Random) -> None:
    """Waits for a step, and then for a save or its end if that is the moment."""
    num_saved = job.num_saved()
    job.until_steps(rng.randint(1, 5))
    if moment == "published":
        job.until(lambda: job.num_saved() > num_saved)
        return
    if moment == "save":
        job.until(lambda: any(job.folder.checkpoints.glob(".part-*/*")), pause=0.001)
    time.sleep(rng.uniform(0, 0.03))
