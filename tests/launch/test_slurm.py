"""The job script of launch/slurm: warned by the scheduler it saves, requeues itself, and goes on where it was.

SLURM itself is not here: `srun` runs its command on this machine and passes signals on as the real one does, `scontrol`
notes what it is asked. Everything else is real: the script, the shell, torchrun, two ranks.
"""

import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.launch.launching import ROOT, SMALL, read, wait_for
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

    def submit(self, **more: str) -> subprocess.Popen[str]:
        """Start the job as `sbatch` would, for the first time or after a requeue."""
        environment = {
            **os.environ,
            "PATH": f"{self.root / 'bin'}:{os.environ['PATH']}",
            "PYTHON": sys.executable,
            "PROCESSES": "2",
            "SLURM_JOB_ID": "42",
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


@pytest.fixture
def cluster(tmp_path: Path, sample: Path) -> Cluster:
    (tmp_path / "bin").mkdir()
    for name, text in {"srun": SRUN, "scontrol": SCONTROL}.items():
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    run = [f"run_root={tmp_path}", f"data.root={sample}", "name=job", "checkpoint.export_hf=false", "max_steps=100000"]
    return Cluster(tmp_path, [*(key for key in SMALL if not key.startswith("launch.")), *run])


def test_a_warned_job_saves_requeues_itself_and_continues(cluster: Cluster) -> None:
    folder = RunFolder(cluster.root / "job")
    job = cluster.submit()
    wait_for(lambda: len(read(folder.metrics)) >= 3, None)
    job.send_signal(signal.SIGUSR1)
    out, _ = job.communicate(timeout=60)
    assert job.returncode == 0 and cluster.requests() == ["requeue 42"], out
    assert f"start 1 of job 42 ended with code {EXIT_STOPPED}: requeued" in out
    stop = read(folder.events)[-1]
    assert stop["event"] == "stop" and (folder.checkpoints / f"step-{stop['step']:07d}").is_dir()

    again = cluster.submit(SLURM_RESTART_COUNT="1")
    wait_for(lambda: "resume" in [event["event"] for event in read(folder.events)], None)
    wait_for(lambda: read(folder.metrics)[-1]["step"] > stop["step"], None)
    again.send_signal(signal.SIGTERM)  # scancel: it saves, and is not requeued
    out, _ = again.communicate(timeout=60)
    assert again.returncode == EXIT_STOPPED and cluster.requests() == ["requeue 42"], out
    assert read(folder.events)[-1]["step"] > stop["step"]


@pytest.mark.slow
def test_a_mistake_is_not_requeued(cluster: Cluster) -> None:
    cluster.command.append("global_batch_size=7")
    job = cluster.submit()
    out, _ = job.communicate(timeout=60)
    assert job.returncode == 2 and cluster.requests() == [], out
    assert "the global batch size of 7 rows cannot be shared by 2 ranks" in out
