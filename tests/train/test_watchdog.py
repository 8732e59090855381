"""A run that hangs says where, and ends with a code that a scheduler can act on."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.train.probe import events
from tests.train.stuck import LIMIT, STEP
from tests.train.tiny import write_tokens
from train.callbacks.callback import Callback
from train.distributed import Ranks
from train.errors import EXIT_STUCK
from train.run_folder import RunFolder
from train.watchdog import Watchdog
from train.watchdog_config import WatchdogConfig

ROOT = Path(__file__).parents[2]


def hang(root: Path, manner: str) -> subprocess.CompletedProcess[str]:
    """Two ranks, of which the last one hangs; the other waits for it in C, in a collective."""
    write_tokens(root / "tokens")
    command = [sys.executable, "-m", "launch.torchrun", "--standalone", "--nproc-per-node=2", "--module"]
    return subprocess.run(
        [*command, "tests.train.stuck", str(root), manner],
        cwd=ROOT,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=900,
    )


@pytest.mark.system
def test_a_rank_that_sleeps_is_named_with_its_stack_and_the_job_ends(tmp_path: Path) -> None:
    ended = hang(tmp_path, "asleep")
    assert ended.returncode == EXIT_STUCK, ended.stderr
    where = f"rank 1 is stuck in HangingRank.on_update (step {STEP}) for {LIMIT:.0f} s"
    [said] = [line for line in ended.stderr.splitlines() if line.startswith("error: ")]
    assert said.startswith(f"error: {where}: the run ends with exit code {EXIT_STUCK}")
    [warned] = [line for line in ended.stderr.splitlines() if line.startswith("rank ")]
    assert warned.startswith(f"rank 1 is in HangingRank.on_update (step {STEP}) since ")
    stack = (tmp_path / "runs/asleep/stuck/rank-00001.txt").read_text()
    assert stack.startswith(where) and "in on_update" in stack and "train/trainer.py" in stack
    [stuck] = [event for event in events(tmp_path, "asleep") if event["event"] == "stuck"]
    assert stuck == {"event": "stuck", "step": STEP, "reason": where}


def test_a_place_outside_of_steps_gets_the_time_that_it_usually_takes(tmp_path: Path) -> None:
    now = [0.0]
    config = WatchdogConfig(step_seconds=60, other_seconds=1500)
    watchdog = Watchdog(config, Ranks(), RunFolder(tmp_path), clock=lambda: now[0])

    def pass_through(what: str, seconds: float, *, of: object = None, is_step: bool = False) -> float:
        watchdog.enter(what, of=of, is_step=is_step)
        now[0] += seconds
        return watchdog.place.limit

    callback = Callback()
    for seconds in (2, 1000, 3):  # says nothing of the next time
        watchdog.enter("waiting for the disk", varies=True)
        now[0] += seconds
        assert watchdog.place.limit == 1500
    assert pass_through("saving", 20) == 1500  # the first time
    assert pass_through("waiting", 0.01) == 1500
    assert pass_through("saving", 100) == 200
    assert pass_through("waiting", 0) == 60  # never less than a step
    assert pass_through("saving", 10) == 1000
    assert pass_through("saving", 400) == 1000
    assert pass_through("saving", 0) == 1500  # never more than at first
    assert [pass_through("on_evaluate", seconds, of=callback) for seconds in (0.01, 90)] == [1500, 1500]
    assert [pass_through("on_evaluate", seconds, of=callback) for seconds in (0.01, 90)] == [900, 900]
    watchdog.step = 1
    assert pass_through("update", 0, is_step=True) == 1500  # the first step of a start
    watchdog.step = 2
    assert pass_through("update", 0, is_step=True) == 60


@pytest.mark.slow
def test_a_rank_whose_process_is_frozen_is_named_by_the_ones_that_wait(tmp_path: Path) -> None:
    ended = hang(tmp_path, "frozen")
    assert ended.returncode == EXIT_STUCK, ended.stderr
    [said] = [line for line in ended.stderr.splitlines() if line.startswith("error: ")]
    assert said.startswith("error: rank 1 is silent for ")
    assert "train/distributed.py" in (tmp_path / "runs/frozen/stuck/rank-00000.txt").read_text()
