"""Kills at random moments change nothing in what a run has learned.

The ranks are forks of a process that has loaded everything, so that a start takes a second of processor time, and not
ten; `make chaos` kills whole launches.
"""

import multiprocessing
import os
import random
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from tests.chaos.compare import differing_steps, rows_out_of_place
from tests.chaos.job import ENDLESS, HANG_SECONDS, Started, wait_in_steps
from tests.distributed import be_rank, rendezvous
from tests.train.tiny import tiny, write_tokens
from train.__main__ import work
from train.config import RunConfig
from train.distributed import leave
from train.errors import EXIT_OK
from train.run_folder import RunFolder

pytestmark = pytest.mark.system

NUM_KILLS, STEPS_AFTER, NUM_RANKS = 4, 5, 2


class ForkedRun(Started):
    """A run on two ranks without a launcher."""

    def __init__(self, config: RunConfig) -> None:
        super().__init__(RunFolder.of(config))
        self._config = config
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["tests.chaos.loaded"])
        self.ranks: list[BaseProcess] = []

    @property
    def is_alive(self) -> bool:
        return all(rank.is_alive() for rank in self.ranks)

    def start(self, last_step: int = ENDLESS) -> None:
        self._store = rendezvous()
        arguments = [(self._config, last_step, rank, self._store.port) for rank in range(NUM_RANKS)]
        self.ranks = [self._context.Process(target=work_as, args=each) for each in arguments]
        for rank in self.ranks:
            rank.start()

    def wait(self) -> list[int | None]:
        """The exit codes of the ranks."""
        for rank in self.ranks:
            rank.join(HANG_SECONDS)
        return [rank.exitcode for rank in self.ranks]

    def kill(self, moment: str, rng: random.Random) -> None:
        """Kills one rank or both; what then stops a rank that is left is torchrun's SIGTERM."""
        wait_in_steps(moment, self, rng)
        assert self.is_alive, f"ended before it was killed ({moment}): {self.wait()}"
        victims = rng.choice([self.ranks, [rng.choice(self.ranks)]])
        for victim in victims:
            victim.kill()
        for rank in self.ranks:
            rank.terminate()
        assert EXIT_OK not in self.wait(), f"success is reported although {len(victims)} ranks were killed ({moment})"


def work_as(config: RunConfig, last_step: int, rank: int, port: int) -> None:
    import torch

    be_rank(rank, NUM_RANKS, port)
    config.max_steps = last_step
    torch.set_num_threads(1)
    log = os.open(Path(config.run_root, "log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for descriptor in (1, 2):
        os.dup2(log, descriptor)
    leave(work(config))


def test_kills_leave_every_loss_as_it_would_have_been(tmp_path: Path) -> None:
    rng = random.Random(int(os.environ.get("CHAOS_SEED", "1")))
    write_tokens(tmp_path / "tokens")
    (tmp_path / "runs").mkdir()
    runs = [
        ForkedRun(tiny(tmp_path, name=name, schedule__decay_steps=ENDLESS, checkpoint__interval=3))
        for name in ("undisturbed", "killed")
    ]
    for _ in range(NUM_KILLS):
        runs[1].start()
        runs[1].kill(rng.choice(["step", "save", "published"]), rng)
    last_step = runs[1].last_step() + STEPS_AFTER
    for run in runs:
        run.start(last_step)
        assert run.wait() == [EXIT_OK] * NUM_RANKS, (tmp_path / "runs/log").read_text()[-3000:]
    undisturbed, killed = (run.folder for run in runs)
    assert differing_steps(undisturbed, killed) == []
    assert rows_out_of_place(killed) == 0 and len(killed.read_metrics()) == last_step
    assert not list(killed.checkpoints.glob(".*"))
