"""The job script of launch/slurm: warned by the scheduler it saves, requeues itself, and goes on where it was.

SLURM itself is not here: `srun` runs its command on this machine and passes signals on as the real one does, `scontrol`
notes what it is asked. Everything else is real: the script, the shell, torchrun, a rank.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.launch.launching import ENDLESS, HANG_SECONDS, ROOT, SMALL, last_step, read, wait_for
from train.errors import EXIT_STOPPED
from train.run_folder import RunFolder

SCRIPT = ROOT / "launch/slurm/job.sbatch"
SRUN = """#!/bin/bash
[ "$1" = --kill-on-bad-exit=1 ] && shift
"$@" &
trap 'kill -USR1 $!' USR1
trap 'kill -TERM $!' TERM
wait $!; code=$?
while kill -0 $! 2>/dev/null; do wait $!; code=$?; done
exit $code
"""
SCONTROL = """#!/bin/bash
[ "$1" = show ] && echo localhost || echo "$@" >> "$REQUESTS"
"""


@dataclass
class Cluster:
    """One job of a scheduler: started, warned, started again as it asks for."""

    root: Path
    command: list[str]
    job_id: str

    def submit(self, **more: str) -> subprocess.Popen[str]:
        """Starts the job as `sbatch` would, for the first time or after a requeue."""
        environment = {
            **os.environ,
            "PATH": f"{self.root / 'bin'}:{os.environ['PATH']}",
            "PYTHON": sys.executable,
            "PROCESSES": "1",
            "SLURM_JOB_ID": self.job_id,
            "SLURM_JOB_NODELIST": "localhost",
            "SLURM_NNODES": "1",
            "REQUESTS": str(self.root / "requests"),
            "CUDA_VISIBLE_DEVICES": "",
            "OMP_NUM_THREADS": "1",
            **more,
        }
        return subprocess.Popen(
            ["bash", str(SCRIPT), *self.command],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def requests(self) -> list[str]:
        path = self.root / "requests"
        return path.read_text().splitlines() if path.exists() else []


def unused_job_id() -> str:
    """Returns a job whose port, which the script makes from its number, is free."""
    for number in range(os.getpid() % 10_000, 20_000):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("localhost", 20_000 + number))
            return str(number)
    raise AssertionError("no port is free")


@pytest.fixture
def cluster(tmp_path: Path, sample: Path) -> Cluster:
    (tmp_path / "bin").mkdir()
    for name, text in {"srun": SRUN, "scontrol": SCONTROL}.items():
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    run = [f"run_root={tmp_path}", f"data.root={sample}", "name=job", "checkpoint.export_hf=false", ENDLESS]
    return Cluster(tmp_path, [*SMALL, *run], unused_job_id())


def test_a_warned_job_saves_requeues_itself_and_continues(cluster: Cluster) -> None:
    folder = RunFolder(cluster.root / "job")
    job = cluster.submit()
    wait_for(lambda: len(read(folder.metrics)) >= 3, job)
    job.send_signal(signal.SIGUSR1)
    out, _ = job.communicate(timeout=HANG_SECONDS)
    assert job.returncode == 0 and cluster.requests() == [f"requeue {cluster.job_id}"], out
    assert f"start 1 of job {cluster.job_id} ended with code {EXIT_STOPPED}: requeued" in out
    stop = read(folder.events)[-1]
    assert stop["event"] == "stop" and (folder.checkpoints / f"step-{stop['step']:07d}").is_dir()

    again = cluster.submit(SLURM_RESTART_COUNT="1")
    wait_for(lambda: "resume" in [event["event"] for event in read(folder.events)], again)
    wait_for(lambda: last_step(folder.metrics) > stop["step"], again)
    again.send_signal(signal.SIGTERM)  # scancel: it saves, and is not requeued
    out, _ = again.communicate(timeout=HANG_SECONDS)
    assert again.returncode == EXIT_STOPPED and cluster.requests() == [f"requeue {cluster.job_id}"], out
    assert read(folder.events)[-1]["step"] > stop["step"]


@pytest.mark.slow
def test_a_mistake_is_not_requeued(cluster: Cluster) -> None:
    cluster.command.append("global_batch_size=7")
    job = cluster.submit(PROCESSES="2")
    out, _ = job.communicate(timeout=HANG_SECONDS)
    assert job.returncode == 2 and cluster.requests() == [], out
    assert "the global batch size of 7 rows cannot be shared by 2 ranks" in out
