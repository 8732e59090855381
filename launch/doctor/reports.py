"""Real ranks for the doctor: they join as those of a run do, and report what they find."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from common.processes import PARENT
from launch.local import INHERITED

REPORT = "doctor's report: "
"""How the line begins that the main rank prints."""


def worker_command(num_ranks: int, rendezvous: Sequence[str]) -> list[str]:
    """Returns what starts the ranks of one node; `rendezvous` are options of torchrun."""
    command = [sys.executable, "-m", "launch.torchrun", *rendezvous, f"--nproc-per-node={num_ranks}"]
    return [*command, "--module", "launch.doctor.worker", "ranks"]


def report_of_ranks(num_ranks: int, seconds: float) -> dict[str, Any] | str:
    """Returns what the ranks of this machine report (launch/doctor/worker.py), or why they do not, as a text."""
    return report_of(worker_command(num_ranks, ["--standalone"]), seconds, {PARENT: str(os.getpid())})


def report_of(command: Sequence[str], seconds: float, more: Mapping[str, str]) -> dict[str, Any] | str:
    """Runs a command until its end, at most so long; returns the report that it prints, or why there is none.

    `more` is added to its environment.
    """
    environment = {name: value for name, value in os.environ.items() if name not in INHERITED}
    environment |= {"OMP_NUM_THREADS": "1", **more}
    process = subprocess.Popen(
        command,
        env=environment,
        start_new_session=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        output, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # its ranks end with it
        process.communicate()
        return f"no answer within {seconds:.0f} s"
    lines = [line for line in output.splitlines() if line.strip()] or [f"exit code {process.returncode}"]
    reports = [line.partition(REPORT)[2] for line in lines if REPORT in line]
    report: dict[str, Any] | str = json.loads(reports[-1]) if reports else lines[-1].removeprefix("error: ")
    return report
