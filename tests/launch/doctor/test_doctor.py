"""The doctor as a person calls it: on this machine, and on two nodes of a scheduler that is not here."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from launch.__main__ import main
from launch.doctor.nodes import FIRST_PORT
from tests.launch.launching import HANG_SECONDS, ROOT, SMALL
from tests.ports import hold_ports
from train.errors import EXIT_OK, EXIT_USER_ERROR

SRUN = """#!/bin/bash
while [[ $1 == --* ]]; do shift; done
for node in n1 n2; do SLURMD_NODENAME=$node "$@" & pids+=($!); done
for pid in "${pids[@]}"; do wait "$pid" || code=$?; done
exit ${code:-0}
"""
SCONTROL = """#!/bin/bash
printf 'localhost\\nlocalhost\\n'
"""


def doctor(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", **more}
    command = [sys.executable, "-m", "launch", "doctor", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=HANG_SECONDS)


def small(root: Path, sample: Path) -> list[str]:
    return [*SMALL, f"run_root={root}", f"data.root={sample}", "launch.processes=2", "name=examined"]


@pytest.mark.slow  # five processes that import torch; each part has a test of its own
def test_this_machine(tmp_path: Path, sample: Path) -> None:
    ended = doctor(*small(tmp_path, sample))
    assert ended.returncode == EXIT_OK, ended.stdout + ended.stderr
    assert "✓ all reduce " in ended.stdout and "2 ranks, gloo: " in ended.stdout and "none failed" in ended.stdout
    assert list(tmp_path.iterdir()) == []
    ended = doctor(*small(tmp_path, sample), f"init_from={tmp_path}/absent", "--json", "--seconds", "0.01")
    data = json.loads(ended.stdout)
    assert ended.returncode == 1 and set(data["faults"]) == {"weights", "devices", "all reduce"}
    assert "no answer within 0 s" in data["results"]["all reduce"]["found"]


@pytest.mark.slow
def test_all_nodes_of_a_job(tmp_path: Path, sample: Path) -> None:
    (tmp_path / "bin").mkdir()
    for name, text in {"srun": SRUN, "scontrol": SCONTROL}.items():
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    # The nodes meet at a port that is made from the job's number.
    job = {"SLURM_JOB_ID": str(hold_ports() - FIRST_PORT - 1), "SLURM_JOB_NODELIST": "n[1-2]"}
    arguments = [*small(tmp_path / "runs", sample), "launch.processes=1", "--all-nodes", "--json"]
    ended = doctor(*arguments, PATH=f"{tmp_path / 'bin'}:{os.environ['PATH']}", **job)
    assert ended.returncode == EXIT_OK, ended.stdout + ended.stderr
    results = json.loads(ended.stdout)["results"]
    assert results["all reduce"]["found"].startswith("2 ranks, gloo: ")
    assert results["clocks"]["found"].startswith("2 nodes, at most ")
    assert results["packages"]["found"].startswith("2 nodes; ")


def test_all_nodes_outside_of_a_job_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    monkeypatch.setattr(sys, "argv", ["launch", "doctor", "experiment=demo", "--all-nodes"])
    assert main() == EXIT_USER_ERROR
    output = capsys.readouterr()
    assert output.out == "" and output.err.startswith("error: --all-nodes asks the nodes of a SLURM job")
    assert output.err.count("\n") == 1


def test_the_help_needs_no_torch() -> None:
    code = (
        "import sys; sys.argv = ['launch', 'doctor', '--help']\n"
        "from launch.__main__ import main\n"
        "assert main() == 0 and not {'torch', 'deepspeed'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True)
