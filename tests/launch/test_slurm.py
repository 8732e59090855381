"""Runs as jobs of a real SLURM on this machine: warned, they save, requeue themselves and go on where they were."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from tests.launch.cluster import needs_slurm, running_cluster, slurm
from tests.launch.launching import (
    ENDLESS,
    ROOT,
    SMALL,
    command_line,
    last_event,
    last_step,
    read,
    wait_for,
)
from train.errors import EXIT_OK, EXIT_STOPPED, EXIT_USER_ERROR
from train.run_folder import RunFolder

pytestmark = [pytest.mark.system, needs_slurm]


@dataclass
class Cluster:
    """SLURM, and the runs in a folder of their own."""

    root: Path
    sample: Path
    environment: dict[str, str]

    def launch(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Runs `python -m launch` with these arguments."""
        command = [sys.executable, "-m", "launch", *arguments]
        return subprocess.run(command, cwd=ROOT, env=self.environment, capture_output=True, text=True)

    def submit(self, name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Submits a run without an end, on one rank of one node."""
        where = [f"run_root={self.root}", f"data.root={self.sample}", f"name={name}", ENDLESS]
        size = ["launch=slurm", "launch.gpus_per_node=0", "launch.cpu_processes=1", "launch.slurm.memory=null"]
        less = ["checkpoint.export_hf=false", "evaluation.enabled=false"]
        return self.launch(*SMALL, *where, *size, *less, *arguments)

    def folder(self, name: str) -> RunFolder:
        return RunFolder(self.root / name)

    def ask(self, *command: str) -> str:
        return slurm(self.environment, *command)

    def warn(self, job: str) -> None:
        """Sends what SLURM sends before the time limit."""
        self.ask("scancel", "--batch", "--signal=USR1", job)

    def start_again(self, job: str) -> None:
        """Waits until a job has requeued itself, and spares it most of the two minutes that SLURM lets it wait.

        Not all: a node refuses a start of the job that is no later, in seconds, than the end of the one before.
        """
        wait_for(lambda: self.field(job, "Restarts") != "0" and self.field(job, "JobState") != "COMPLETING", None)
        self.ask("scontrol", "update", f"JobId={job}", "StartTime=now+5")  # refused if it runs already

    def state(self, job: str) -> str:
        """Returns the state and the exit code of a job, such as `FAILED 75:0`."""
        return f"{self.field(job, 'JobState')} {self.field(job, 'ExitCode')}"

    def field(self, job: str, name: str) -> str:
        """Returns what SLURM says of a job under this name."""
        shown = self.ask("scontrol", "show", "job", job).split()
        return dict(field.split("=", 1) for field in shown if "=" in field)[name]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, sample: Path) -> Iterator[Cluster]:
    with running_cluster() as environment:
        yield Cluster(tmp_path_factory.mktemp("runs"), sample, environment)


def events(folder: RunFolder) -> list[str]:
    return [event["event"] for event in read(folder.events)]


def logs(folder: RunFolder) -> str:
    return "".join(path.read_text() for path in sorted(folder.slurm.glob("*.log")))


def has_continued(folder: RunFolder, after: int) -> bool:
    return "resume" in events(folder) and last_step(folder.metrics) > after


def test_a_warned_job_saves_requeues_itself_and_continues_until_it_is_stopped(cluster: Cluster) -> None:
    folder = cluster.folder("warned")
    submitted = cluster.submit("warned")
    job = folder.job_id()
    assert submitted.returncode == EXIT_OK and job is not None, submitted.stderr
    assert submitted.stdout.startswith(f"warned is job {job}; its nodes print to {folder.slurm}/{job}-*.log\n")
    wait_for(lambda: len(read(folder.metrics)) >= 3, None)
    cluster.warn(job)
    wait_for(lambda: last_event(folder.events) == "stop", None)
    stop = read(folder.events)[-1]
    assert (folder.checkpoints / f"step-{stop['step']:07d}").is_dir()

    cluster.start_again(job)
    wait_for(lambda: has_continued(folder, stop["step"]), None)
    assert f"start 1 of job {job} ended with code {EXIT_STOPPED}: requeued" in logs(folder)
    listed = cluster.launch("status", str(cluster.root)).stdout
    assert f"job {job} RUNNING on n1, process " in listed
    again = cluster.submit("warned")
    assert again.returncode == EXIT_USER_ERROR
    assert again.stderr.startswith(f"warned is not submitted again: job {job} RUNNING on n1\nerror: nothing is left")

    stopped = cluster.launch("stop", str(folder.path))
    last = read(folder.events)[-1]
    assert (stopped.returncode, last["event"]) == (EXIT_OK, "stop") and last["step"] > stop["step"], stopped.stderr
    assert f"its newest checkpoint is of step {last['step']}" in stopped.stdout
    assert cluster.state(job) == f"FAILED {EXIT_STOPPED}:0"  # it is not requeued
    assert list(folder.slurm.glob(f"{job}-0-*.log"))


@pytest.mark.slow
def test_the_time_limit_warns_a_job_of_two_nodes_which_continues(cluster: Cluster) -> None:
    folder = cluster.folder("limited")
    setup = "launch.slurm.setup=['export MASTER_ADDR=127.0.0.1']"  # node names have no address here
    submitted = cluster.submit(
        "limited", setup, "launch.nodes=2", "launch.slurm.time=4:00:00", "launch.slurm.warning_seconds=3600"
    )
    assert submitted.returncode == EXIT_OK, submitted.stderr
    job = str(folder.job_id())
    wait_for(lambda: last_step(folder.metrics) >= 2, None)
    cluster.ask("scontrol", "update", f"JobId={job}", "TimeLimit=60")  # an hour: it is warned at once
    wait_for(lambda: last_event(folder.events) == "stop", None)
    stop = read(folder.events)[-1]
    assert read(folder.events)[0]["world_size"] == 2 and stop["reason"] == "signal"
    cluster.ask("scontrol", "update", f"JobId={job}", "TimeLimit=240")
    cluster.start_again(job)
    wait_for(lambda: has_continued(folder, stop["step"]), None)
    assert cluster.launch("stop", str(folder.path)).returncode == EXIT_OK
    assert {path.name.split("-")[1] for path in folder.slurm.glob("*-*-*.log")} == {"0", "1"}  # a log of each node


@pytest.mark.slow
def test_one_task_of_an_array_is_requeued_alone_and_a_longer_sweep_submits_only_what_is_new(cluster: Cluster) -> None:
    submitted = cluster.submit("array", "-m", "seed=1,2")
    first, second, third = (cluster.folder(f"array-seed_{seed}") for seed in (1, 2, 3))
    job = str(first.job_id())
    assert submitted.returncode == EXIT_OK and job.endswith("_0") and second.job_id() == job[:-1] + "1"
    wait_for(lambda: min(last_step(first.metrics), last_step(second.metrics)) >= 2, None)
    cluster.warn(job)
    cluster.start_again(job)
    wait_for(lambda: "resume" in events(first), None)
    step = last_step(second.metrics)
    wait_for(lambda: last_step(second.metrics) > step, None)
    assert "stop" not in events(second)

    longer = cluster.submit("array", "-m", "seed=1,2,3")
    assert longer.stderr.count("is not submitted again: job ") == 2
    assert longer.stdout.startswith("array-seed_3 is job ") and third.job_id() not in (None, job)
    for folder in (third, first, second):  # the third may still be waiting for a place
        assert cluster.launch("stop", str(folder.path)).returncode == EXIT_OK
    assert cluster.ask("squeue", "-h") == ""


@pytest.mark.slow
def test_a_mistake_is_one_line_in_the_log_and_is_not_requeued(cluster: Cluster) -> None:
    folder, data = cluster.folder("absent"), cluster.root / "lost"
    shutil.copytree(cluster.sample, data)  # the launcher finds it, the node does not
    cluster.submit("absent", f"data.root={data}", f"launch.slurm.setup=['rm -r {data}']")
    job = str(folder.job_id())
    wait_for(lambda: cluster.state(job).startswith("FAILED"), None)
    assert cluster.state(job) == f"FAILED {EXIT_USER_ERROR}:0"
    assert "error: data.root: there is no folder" in logs(folder) and "requeued" not in logs(folder)


@pytest.mark.slow
def test_a_job_that_is_warned_while_it_starts_is_not_requeued(cluster: Cluster) -> None:
    folder = cluster.folder("early")
    cluster.submit("early")
    job = str(folder.job_id())
    started = str(folder.slurm_config)

    def ranks_start() -> bool:
        lines = [command_line(process) for process in psutil.process_iter()]
        return any("launch.torchrun" in line and started in line for line in lines)

    wait_for(ranks_start, None)
    cluster.warn(job)
    wait_for(lambda: cluster.state(job).startswith("FAILED"), None)
    assert "had nothing to save: raise --time (launch.slurm.time)" in logs(folder)
    assert "requeued" not in logs(folder)


def test_what_the_cluster_refuses_is_one_line_and_leaves_no_folder(cluster: Cluster) -> None:
    refused = cluster.submit("refused", "launch.slurm.partition=none")
    assert (refused.returncode, refused.stdout) == (EXIT_USER_ERROR, "")
    assert (
        refused.stderr
        == "error: sbatch refuses: sbatch: error: Batch job submission failed: Invalid partition name specified\n"
    )
    assert not cluster.folder("refused").path.exists()
