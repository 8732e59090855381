"""A job from one command, through a kill and a Ctrl-C, to its end: on real processes, on real text."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from common.processes import PARENT
from data.tokens.published import published_order
from launch.inputs import FIRST_IDS
from report.probes import probe_files
from tests.launch.launching import (
    ENDLESS,
    HANG_SECONDS,
    ROOT,
    SMALL,
    end,
    last_event,
    last_step,
    launch,
    ranks_of,
    read,
    start,
    wait_for,
)
from train.errors import EXIT_DATA, EXIT_OK, EXIT_STOPPED, EXIT_USER_ERROR, StopReason, TrainError
from train.run_folder import RunFolder

pytestmark = pytest.mark.system

Launches = dict[str, Future[subprocess.CompletedProcess[str]]]

INTERVAL = 8  # steps between two checkpoints


@dataclass
class Job:
    """A run folder, and how each of its launches ended."""

    folder: RunFolder
    launches: list[subprocess.CompletedProcess[str]]

    def metrics(self) -> list[dict[str, Any]]:
        """Returns a row per step without what a clock says.

        A stop within an evaluation makes its results a line of their own; every step is trained once all the same.
        """
        trained = [row["step"] for row in read(self.folder.metrics) if "train/ce_loss" in row]
        assert len(trained) == len(set(trained))
        return [
            {name: value for name, value in row.items() if not name.startswith("throughput/")}
            for row in self.folder.read_metrics()
        ]

    @property
    def num_steps(self) -> int:
        return last_step(self.folder.metrics)


def arguments(root: Path, sample: Path, name: str, *extra: str, processes: int = 2) -> list[str]:
    """Returns a command line without its number of steps."""
    own = [f"launch.processes={processes}", f"run_root={root}", f"data.root={sample}", f"name={name}"]
    return [*SMALL, f"checkpoint.interval={INTERVAL}", *own, *extra]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def unattended(root: Path) -> Iterator[Launches]:
    """Launches that end by themselves, one after the other, while tests work on others."""
    tokens = np.random.default_rng(0).integers(0, 500, (512, 64), dtype="<u4")
    bad_row = published_order(512, seed=42, epoch=0)[8 * 2 + 6]  # the third step's seventh row: the second rank's
    assert bad_row * 64 > FIRST_IDS  # which the launcher looks at
    tokens[bad_row] = 99_999
    tokens.tofile(root / "part.npy")
    (root / "files.txt").write_text("part.npy\n")
    published = ["data=olmo2-stage2", f"data.file_list={root}/files.txt", "data.eos_token_id=0", "max_steps=40"]
    commands = {
        "absent-data": arguments(root, root / "absent", "absent-data", "max_steps=40"),
        "bad-token": arguments(root, root, "bad-token", *published),
    }
    with ThreadPoolExecutor(1) as pool:
        yield {name: pool.submit(launch, *command) for name, command in commands.items()}
        pool.shutdown(cancel_futures=True)


@pytest.fixture(scope="module")
def restarted(root: Path, sample: Path) -> Job:
    """The same command twice: one rank is killed, then Ctrl-C; then the end, a few steps later, and SIGTERM then."""
    command, folder = arguments(root, sample, "restarted", processes=1), RunFolder(root / "restarted")

    killed = start(*command, ENDLESS)
    wait_for(lambda: last_step(folder.metrics) >= INTERVAL + 3, killed)
    ranks_of(killed)[0].kill()
    launches = [end(killed)]

    interrupted = start(*command, ENDLESS)
    wait_for(lambda: [event["event"] for event in read(folder.events)].count("resume") == 1, interrupted)
    wait_for(lambda: last_step(folder.metrics) >= 2 * INTERVAL + 3, interrupted)
    interrupted.send_signal(signal.SIGINT)
    launches.append(end(interrupted))

    finished = start(*command, f"max_steps={last_step(folder.metrics) + 5}")
    wait_for(lambda: read(folder.events)[-1].get("reason") == StopReason.finished.word, finished)
    processes = [psutil.Process(finished.pid), *ranks_of(finished)]
    while finished.poll() is None:  # one after the other, until the launcher has ended
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.terminate()
        time.sleep(0.01)
    return Job(folder, [*launches, end(finished)])


@pytest.fixture(scope="module")
def undisturbed(root: Path, sample: Path, restarted: Job) -> Job:
    """From start to end without a disturbance, as many steps as the restarted; and once more."""
    length = f"max_steps={restarted.num_steps}"
    command = arguments(root, sample, "undisturbed", length, "logging.report_seconds=60", processes=1)
    return Job(RunFolder(root / "undisturbed"), [launch(*command), launch(*command)])


def test_a_mistake_is_reported_before_anything_starts(root: Path) -> None:
    ended = launch("experiment=demo", "optimiser.lr=1", f"run_root={root}/none")
    assert ended.returncode == EXIT_USER_ERROR
    assert ended.stderr == "error: there is no config key 'optimiser'; did you mean 'optimizer'?\n"
    assert ended.stdout == "" and not (root / "none").exists()


def test_a_folder_that_cannot_be_written_is_one_line(root: Path, sample: Path) -> None:
    (root / "file").touch()
    ended = launch("experiment=demo-backbone", f"data.root={sample}", f"run_root={root}/file")
    assert ended.returncode == EXIT_USER_ERROR
    assert ended.stderr.startswith(f"error: cannot write in {root}/file/demo-backbone (Not a directory): ")
    assert ended.stderr.count("\n") == 1


def test_what_every_rank_finds_wrong_is_said_once(root: Path, unattended: Launches) -> None:
    ended = unattended["absent-data"].result()
    assert ended.returncode == EXIT_USER_ERROR
    assert ended.stderr.count("\n") == 1
    assert ended.stderr.startswith(f"error: data.root: there is no folder {root}/absent; ")
    assert not (root / "absent-data").exists()  # no run began


def test_a_job_runs_to_its_end_and_says_what_there_is(undisturbed: Job) -> None:
    first, folder, num_steps = undisturbed.launches[0], undisturbed.folder, undisturbed.num_steps
    assert first.returncode == EXIT_OK
    # Of the first start of some text, of repeats, and of the encoder.
    notices = ("ingested ", "read ", "data: ", "data.validation: ", "data.encoder: ")
    assert all(line.startswith(notices) for line in first.stderr.splitlines()), first.stderr
    assert f"undisturbed is finished after {num_steps} steps, loss " in first.stdout
    assert f"max_steps={2 * num_steps}" in first.stdout and str(folder.hf) in first.stdout
    assert [row["step"] for row in undisturbed.metrics()] == list(range(1, num_steps + 1))
    losses = [row["train/ce_loss"] for row in undisturbed.metrics()]
    assert np.mean(losses[-10:]) < np.mean(losses[:10]) - 0.3
    saved = sorted({*range(INTERVAL, num_steps, INTERVAL), num_steps})
    assert {path.name for path in folder.checkpoints.glob("step-*")} == {f"step-{step:07d}" for step in saved[-2:]}
    assert (folder.hf / "model.safetensors").is_file()
    assert f"report: {folder.report}" in first.stdout and folder.report.is_file()
    assert max(probe_files(folder.probes)) == num_steps


def test_a_finished_job_says_so_at_once(undisturbed: Job) -> None:
    again = undisturbed.launches[1]
    assert again.returncode == EXIT_OK
    assert f"undisturbed is finished after {undisturbed.num_steps} steps" in again.stdout
    assert "starting" not in again.stdout and "resuming" not in again.stdout
    assert [event["event"] for event in read(undisturbed.folder.events)].count("stop") == 1


def test_a_killed_rank_ends_the_job_with_its_signal(restarted: Job) -> None:
    killed = restarted.launches[0]
    assert killed.returncode == 128 + signal.SIGKILL
    assert killed.stderr.splitlines()[-1] == "error: rank 0 was ended by SIGKILL: look for a lack of memory"


def test_ctrl_c_saves_and_stops_with_a_code_that_says_run_it_again(restarted: Job) -> None:
    interrupted = restarted.launches[1]
    assert interrupted.returncode == EXIT_STOPPED
    [stop] = [event for event in read(restarted.folder.events) if event.get("detail") == "SIGTERM"]
    assert stop["reason"] == "signal" and 2 * INTERVAL + 3 <= stop["step"] < restarted.num_steps
    assert {"event": "checkpoint", "folder": f"step-{stop['step']:07d}"}.items() <= events_before(
        restarted, stop
    ).items()
    assert f"restarted is stopped after step {stop['step']}; the same command continues it" in interrupted.stdout
    assert "saving a checkpoint, then stopping" in interrupted.stderr and "Traceback" not in interrupted.stderr


def test_a_signal_after_the_end_of_a_run_changes_nothing(restarted: Job) -> None:
    finished = restarted.launches[2]
    assert finished.returncode == EXIT_OK, finished.stderr
    assert f"restarted is finished after {restarted.num_steps} steps" in finished.stdout


def events_before(job: Job, event: dict[str, Any]) -> dict[str, Any]:
    rows = read(job.folder.events)
    return rows[rows.index(event) - 1]


def test_after_a_kill_and_a_ctrl_c_the_metrics_are_those_of_an_undisturbed_run(
    undisturbed: Job, restarted: Job
) -> None:
    assert restarted.launches[2].returncode == EXIT_OK
    assert restarted.metrics() == undisturbed.metrics()
    assert (restarted.folder.hf / "model.safetensors").read_bytes() == (
        undisturbed.folder.hf / "model.safetensors"
    ).read_bytes()


def test_what_one_rank_finds_wrong_is_all_that_is_said(root: Path, unattended: Launches) -> None:
    ended = unattended["bad-token"].result()
    assert ended.returncode == EXIT_DATA
    assert ended.stderr.count("\n") == 1
    assert ended.stderr.startswith("error: the data holds token id 99999, but model.vocab_size=512: ")
    assert [row["step"] for row in read(root / "bad-token" / "metrics.jsonl")] == [1, 2]


def test_a_run_folder_has_one_owner_and_is_free_after_a_killed_launcher(root: Path, sample: Path) -> None:
    command = arguments(root, sample, "launcher-killed", ENDLESS, processes=1)
    folder = RunFolder(root / "launcher-killed")
    first = start(*command)
    wait_for(lambda: len(read(folder.metrics)) >= 2, first)
    assert [rank.ppid() for rank in ranks_of(first)] == [first.pid]  # one rank needs no torchrun, and no time for it
    [composed] = folder.path.glob("launch*.yaml")
    text = composed.read_text()
    second = launch(*command, "optimizer.lr=1e-9")
    assert second.returncode == EXIT_USER_ERROR
    assert list(folder.path.glob("launch*.yaml")) == [composed] and composed.read_text() == text
    assert second.stderr.startswith(f"error: {folder.path} is in use by process ") and second.stderr.count("\n") == 1
    first.kill()
    first.wait()
    wait_for(lambda: last_event(folder.events) == "stop", None)
    stop = read(folder.events)[-1]
    assert stop["detail"] == "SIGTERM" and (folder.checkpoints / f"step-{stop['step']:07d}").is_dir()
    wait_for(lambda: is_free(folder), None)  # the ranks leave a moment after the event
    assert list(folder.path.glob("launch*.yaml")) == []


def test_what_was_launched_by_a_process_that_is_dead_already_ends() -> None:
    command = [sys.executable, "-m", "launch.torchrun", "--help"]
    environment = {**os.environ, PARENT: str(10**9)}
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, timeout=HANG_SECONDS)
    assert ended.returncode == 128 + signal.SIGTERM


def is_free(folder: RunFolder) -> bool:
    try:
        folder.lock().close()
    except TrainError:
        return False
    return True


@pytest.mark.parametrize("moment", [pytest.param("torchrun starts", marks=pytest.mark.slow), "ranks start"])
def test_a_ctrl_c_during_start_up_is_a_stop(root: Path, sample: Path, moment: str) -> None:
    name = moment.replace(" ", "-")
    early = start(*arguments(root, sample, name, ENDLESS, processes=2 if moment == "torchrun starts" else 1))
    wait_for(lambda: psutil.Process(early.pid).children() if moment == "torchrun starts" else ranks_of(early), early)
    early.send_signal(signal.SIGINT)
    ended = end(early)
    assert ended.returncode == EXIT_STOPPED and "Traceback" not in ended.stderr
    assert f"{name} is stopped before its first step; the same command continues it" in ended.stdout


@pytest.mark.slow  # its signals are those of tests/train/test_signals.py
def test_under_nohup_a_closed_terminal_ends_nothing_and_a_ctrl_c_after_a_sigterm_still_saves(
    root: Path, sample: Path
) -> None:
    folder = RunFolder(root / "nohup")
    job = start(*arguments(root, sample, "nohup", ENDLESS), prefix=["nohup"])
    wait_for(lambda: len(read(folder.metrics)) >= 2, job)
    for process in [psutil.Process(job.pid), *psutil.Process(job.pid).children(), *ranks_of(job)]:
        process.send_signal(signal.SIGHUP)
    num_rows = len(read(folder.metrics))
    wait_for(lambda: len(read(folder.metrics)) >= num_rows + 5, job)
    [torchrun] = psutil.Process(job.pid).children()
    torchrun.suspend()  # a request to stop reaches the ranks through it all the same
    job.send_signal(signal.SIGTERM)
    job.send_signal(signal.SIGINT)
    assert end(job).returncode == EXIT_STOPPED
    stop = read(folder.events)[-1]
    assert stop["event"] == "stop" and (folder.checkpoints / f"step-{stop['step']:07d}").is_dir()


def test_a_second_ctrl_c_ends_ranks_that_do_not_answer(root: Path, sample: Path) -> None:
    job = start(*arguments(root, sample, "deaf", ENDLESS))
    wait_for(lambda: len(ranks_of(job)) == 2, job)
    ranks = ranks_of(job)
    for rank in ranks:
        rank.suspend()  # as good as stuck
    job.send_signal(signal.SIGINT)
    wait_for(lambda: all(has_pending(rank, signal.SIGTERM) for rank in ranks), job)
    job.send_signal(signal.SIGINT)
    ended = end(job)
    assert ended.returncode == 128 + signal.SIGKILL
    assert ended.stderr.splitlines()[-1] == "stopped at once: the same command goes on from the newest checkpoint"
    wait_for(lambda: not any(rank.is_running() and rank.status() != psutil.STATUS_ZOMBIE for rank in ranks), None)


def has_pending(process: psutil.Process, number: signal.Signals) -> bool:
    """Returns whether a process has been sent a signal that it has not taken yet."""
    [line] = [
        line for line in Path(f"/proc/{process.pid}/status").read_text().splitlines() if line.startswith("ShdPnd")
    ]
    return bool(int(line.split()[1], 16) >> (number - 1) & 1)
