"""A job from one command, through a kill and a Ctrl-C, to its end: on two real processes, on real text."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from data.tokens.published import published_order
from report.probes import probe_files
from tests.launch.launching import ROOT, SMALL, end, launch, ranks_of, read, start, wait_for
from train.errors import EXIT_ALERTED, EXIT_DATA, EXIT_OK, EXIT_STOPPED, EXIT_USER_ERROR, TrainError
from train.processes import PARENT
from train.run_folder import RunFolder

NUM_STEPS, INTERVAL = 40, 10


@dataclass
class Job:
    """A run folder, and how each of its launches ended."""

    folder: RunFolder
    launches: list[subprocess.CompletedProcess[str]]

    @property
    def codes(self) -> list[int]:
        return [ended.returncode for ended in self.launches]

    def metrics(self) -> list[dict[str, Any]]:
        """Without what a clock says."""
        return [
            {name: value for name, value in row.items() if not name.startswith("throughput/")}
            for row in read(self.folder.metrics)
        ]


def arguments(root: Path, sample: Path, name: str, *extra: str) -> list[str]:
    lengths = [f"max_steps={NUM_STEPS}", f"checkpoint.interval={INTERVAL}"]
    return [*SMALL, *lengths, f"run_root={root}", f"data.root={sample}", f"name={name}", *extra]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def undisturbed(root: Path, sample: Path) -> Job:
    """From start to end, and once more."""
    command = arguments(root, sample, "undisturbed", "logging.report_seconds=60")
    return Job(RunFolder(root / "undisturbed"), [launch(*command), launch(*command)])


@pytest.fixture(scope="module")
def restarted(root: Path, sample: Path) -> Job:
    """The same command three times: one rank is killed, then Ctrl-C, then the end."""
    command, folder = arguments(root, sample, "restarted"), RunFolder(root / "restarted")

    killed = start(*command)
    wait_for(lambda: len(read(folder.metrics)) >= INTERVAL + 3, killed)
    ranks_of(killed)[1].kill()
    launches = [end(killed)]

    interrupted = start(*command)
    wait_for(lambda: [event["event"] for event in read(folder.events)].count("resume") == 1, interrupted)
    wait_for(lambda: read(folder.metrics)[-1]["step"] >= 2 * INTERVAL + 3, interrupted)
    interrupted.send_signal(signal.SIGINT)
    launches.append(end(interrupted))

    return Job(folder, [*launches, launch(*command)])


def test_a_job_runs_to_its_end_and_says_what_there_is(undisturbed: Job) -> None:
    first, folder = undisturbed.launches[0], undisturbed.folder
    assert first.returncode == EXIT_OK
    assert all(line.startswith("ingested ") for line in first.stderr.splitlines()), first.stderr
    assert f"undisturbed is finished after {NUM_STEPS} steps, loss " in first.stdout
    assert f"max_steps={2 * NUM_STEPS}" in first.stdout and str(folder.hf) in first.stdout
    assert [row["step"] for row in undisturbed.metrics()] == list(range(1, NUM_STEPS + 1))
    losses = [row["train/ce_loss"] for row in undisturbed.metrics()]
    assert np.mean(losses[-10:]) < np.mean(losses[:10]) - 0.3
    assert {path.name for path in folder.checkpoints.glob("step-*")} == {"step-0000030", "step-0000040"}
    assert (folder.hf / "model.safetensors").is_file()
    assert f"report: {folder.report}" in first.stdout and folder.report.is_file()
    assert max(probe_files(folder.probes)) == NUM_STEPS


def test_a_finished_job_says_so_at_once(undisturbed: Job) -> None:
    again = undisturbed.launches[1]
    assert again.returncode == EXIT_OK
    assert f"undisturbed is finished after {NUM_STEPS} steps" in again.stdout
    assert "starting" not in again.stdout and "resuming" not in again.stdout
    assert [event["event"] for event in read(undisturbed.folder.events)].count("stop") == 1


def test_a_killed_rank_ends_the_job_with_its_signal(restarted: Job) -> None:
    killed = restarted.launches[0]
    assert killed.returncode == 128 + signal.SIGKILL
    assert killed.stderr.splitlines()[-1] == "error: rank 1 was ended by SIGKILL: look for a lack of memory"


def test_ctrl_c_saves_and_stops_with_a_code_that_says_run_it_again(restarted: Job) -> None:
    interrupted = restarted.launches[1]
    assert interrupted.returncode == EXIT_STOPPED
    [stop] = [event for event in read(restarted.folder.events) if event.get("reason") == "SIGTERM"]
    assert 2 * INTERVAL < stop["step"] < NUM_STEPS
    assert {"event": "checkpoint", "folder": f"step-{stop['step']:07d}"}.items() <= events_before(
        restarted, stop
    ).items()
    assert f"restarted is stopped after step {stop['step']}; the same command continues it" in interrupted.stdout
    assert "saving a checkpoint, then stopping" in interrupted.stderr and "Traceback" not in interrupted.stderr


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


def test_a_mistake_is_reported_before_anything_starts(root: Path) -> None:
    ended = launch("experiment=demo", "optimiser.lr=1", f"run_root={root}/none")
    assert ended.returncode == EXIT_USER_ERROR
    assert ended.stderr == "error: there is no config key 'optimiser'; did you mean 'optimizer'?\n"
    assert ended.stdout == "" and not (root / "none").exists()


def test_a_folder_that_cannot_be_written_is_one_line(root: Path) -> None:
    (root / "file").touch()
    ended = launch("experiment=demo", f"run_root={root}/file")
    assert ended.returncode == EXIT_USER_ERROR
    assert ended.stderr.count("\n") == 1 and f"Not a directory: '{root}/file/demo'" in ended.stderr


def test_what_every_rank_finds_wrong_is_said_once(root: Path) -> None:
    ended = launch(*arguments(root, root / "absent", "absent-data"))
    assert ended.returncode == EXIT_USER_ERROR
    assert ended.stderr.count("\n") == 1
    assert ended.stderr.startswith(f"error: data.root: there is no folder {root}/absent; ")


def test_what_one_rank_finds_wrong_is_all_that_is_said(root: Path) -> None:
    tokens = np.random.default_rng(0).integers(0, 500, (64, 64), dtype="<u4")
    tokens[published_order(64, seed=42, epoch=0)[8 * 2 + 6]] = 99_999  # the third step's seventh row: the second rank's
    tokens.tofile(root / "part.npy")
    (root / "files.txt").write_text("part.npy\n")
    published = ["data=olmo2-stage2", f"data.file_list={root}/files.txt", "data.eos_token_id=0"]
    ended = launch(*arguments(root, root, "bad-token", *published))
    assert ended.returncode == EXIT_DATA
    assert ended.stderr.count("\n") == 1
    assert ended.stderr.startswith("error: the data holds token id 99999, but model.vocab_size=512: ")
    assert [row["step"] for row in read(root / "bad-token" / "metrics.jsonl")] == [1, 2]


def test_an_alert_that_stops_a_job_has_an_exit_code_of_its_own(root: Path, sample: Path) -> None:
    wild = ["optimizer.repo_lr_multiplier=1000", "position_watch.interval=1", "position_watch.policy=stop"]
    ended = launch(*arguments(root, sample, "wild", *wild))
    assert ended.returncode == EXIT_ALERTED and "Traceback" not in ended.stderr
    *_, alert, checkpoint, stop = read(root / "wild" / "events.jsonl")
    assert (alert["event"], checkpoint["event"], stop["event"]) == ("alert", "checkpoint", "stop")
    assert f"alert at step {alert['step']}: {alert['message']}" in ended.stdout
    assert f"wild is stopped after step {stop['step']}, because of an alert: see " in ended.stdout


def test_a_sweep_has_a_folder_for_each_combination(root: Path, sample: Path) -> None:
    swept = ["-m", "optimizer.lr=1e-3,2e-3", "launch.processes=1", "max_steps=1", "checkpoint.export_hf=false"]
    command = [a for a in arguments(root, sample, "swept") if not a.startswith(("launch.processes", "max_steps"))]
    ended = launch(*command, *swept)
    assert ended.returncode == EXIT_OK, ended.stderr
    folders = [root / f"swept-optimizer.lr_{rate}" for rate in ("0.001", "0.002")]
    assert sorted(root.glob("swept*")) == folders
    losses = [read(folder / "metrics.jsonl")[0]["train/loss"] for folder in folders]
    rates = [read(folder / "metrics.jsonl")[0]["optim/lr"] for folder in folders]
    assert losses[0] == losses[1] and rates[1] == pytest.approx(2 * rates[0])


def test_a_run_folder_has_one_owner_and_is_free_after_a_killed_launcher(root: Path, sample: Path) -> None:
    command = [*arguments(root, sample, "orphan", "launch.processes=1"), "max_steps=100000"]
    folder = RunFolder(root / "orphan")
    first = start(*command)
    wait_for(lambda: len(read(folder.metrics)) >= 2, first)
    [composed] = folder.path.glob("launch*.yaml")
    text = composed.read_text()
    second = launch(*command, "optimizer.lr=1e-9")
    assert second.returncode == EXIT_USER_ERROR
    assert list(folder.path.glob("launch*.yaml")) == [composed] and composed.read_text() == text
    assert second.stderr.startswith(f"error: {folder.path} is in use by process ") and second.stderr.count("\n") == 1
    first.kill()
    first.wait()
    wait_for(lambda: read(folder.events)[-1]["event"] == "stop", None)
    stop = read(folder.events)[-1]
    assert stop["reason"] == "SIGTERM" and (folder.checkpoints / f"step-{stop['step']:07d}").is_dir()
    wait_for(lambda: is_free(folder), None)  # the ranks leave a moment after the event


@pytest.mark.parametrize(("parent", "code"), [(os.getpid(), 0), (10**9, 128 + signal.SIGTERM)])
def test_what_was_launched_by_a_process_that_is_dead_already_ends(parent: int, code: int) -> None:
    command = [sys.executable, "-m", "launch.torchrun", "--help"]
    ended = subprocess.run(command, cwd=ROOT, env={**os.environ, PARENT: str(parent)}, capture_output=True, timeout=60)
    assert ended.returncode == code


def is_free(folder: RunFolder) -> bool:
    try:
        folder.lock().close()
    except TrainError:
        return False
    return True


@pytest.mark.parametrize("moment", ["torchrun starts", "ranks start"])
def test_a_ctrl_c_during_start_up_is_a_stop(root: Path, sample: Path, moment: str) -> None:
    name = moment.replace(" ", "-")
    early = start(*arguments(root, sample, name, "launch.processes=1"), "max_steps=100000")
    wait_for(lambda: psutil.Process(early.pid).children() if moment == "torchrun starts" else ranks_of(early), early)
    early.send_signal(signal.SIGINT)
    ended = end(early)
    assert ended.returncode == EXIT_STOPPED and "Traceback" not in ended.stderr
    assert f"{name} is stopped before its first step; the same command continues it" in ended.stdout


def test_under_nohup_a_closed_terminal_ends_nothing_and_a_ctrl_c_after_a_sigterm_still_saves(
    root: Path, sample: Path
) -> None:
    folder = RunFolder(root / "nohup")
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # what nohup does
    try:
        job = start(*arguments(root, sample, "nohup", "launch.processes=1"), "max_steps=100000")
    finally:
        signal.signal(signal.SIGHUP, before)
    wait_for(lambda: len(read(folder.metrics)) >= 2, job)
    for process in [psutil.Process(job.pid), *psutil.Process(job.pid).children(), *ranks_of(job)]:
        process.send_signal(signal.SIGHUP)
    num_rows = len(read(folder.metrics))
    wait_for(lambda: len(read(folder.metrics)) >= num_rows + 5, job)
    job.send_signal(signal.SIGTERM)
    job.send_signal(signal.SIGINT)
    assert end(job).returncode == EXIT_STOPPED
    stop = read(folder.events)[-1]
    assert stop["event"] == "stop" and (folder.checkpoints / f"step-{stop['step']:07d}").is_dir()


def test_a_second_ctrl_c_ends_ranks_that_do_not_answer(root: Path, sample: Path) -> None:
    job = start(*arguments(root, sample, "deaf"), "max_steps=100000")
    wait_for(lambda: len(ranks_of(job)) == 2, job)
    ranks = ranks_of(job)
    for rank in ranks:
        rank.suspend()  # stopped: it does not answer
    job.send_signal(signal.SIGINT)
    time.sleep(1)
    assert job.poll() is None
    job.send_signal(signal.SIGINT)
    assert end(job, timeout=10).returncode == 128 + signal.SIGKILL
    wait_for(lambda: not any(rank.is_running() and rank.status() != psutil.STATUS_ZOMBIE for rank in ranks), None, 10)
