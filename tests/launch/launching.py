"""`python -m launch` as a person types it, on a run of seconds."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).parents[2]
HANG_SECONDS = 900.0  # after which a wait fails: only to end a hang
ENDLESS = "max_steps=100000"  # more than a run can make while a test works on it
SMALL = (
    "experiment=demo-backbone",
    "positions=repo",
    "model.vocab_size=512",
    "model.hidden_size=32",
    "model.intermediate_size=48",
    "model.num_layers=3",
    "model.num_heads=2",
    "sequence_length=64",
    "global_batch_size=8",
    "micro_batch_size=4",
    "data.num_streams=4",
    "wandb.mode=disabled",
    "logging.report_seconds=null",
    "watchdog.slow_step_factor=1e9",  # no step is an event, however busy the machine is
)


def start(*arguments: str, prefix: Sequence[str] = ()) -> subprocess.Popen[str]:
    """Starts a launch in the background, as `prefix python -m launch arguments`."""
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [*prefix, sys.executable, "-m", "launch", *arguments],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def end(process: subprocess.Popen[str]) -> subprocess.CompletedProcess[str]:
    """Waits for a launch; one that hangs is killed with all that it started."""
    try:
        out, err = process.communicate(timeout=HANG_SECONDS)
    except subprocess.TimeoutExpired:
        for child in [*psutil.Process(process.pid).children(recursive=True), process]:
            child.kill()
        raise
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def launch(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs a launch to its end."""
    return end(start(*arguments))


def ranks_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """Returns the worker processes of a launch."""
    descendants = psutil.Process(process.pid).children(recursive=True)
    return [child for child in descendants if command_line(child)[1:4] == ["-u", "-m", "train"]]


def command_line(process: psutil.Process) -> list[str]:
    """Returns the arguments of a process; nothing for one that has ended."""
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def wait_for(condition: Callable[[], object], process: subprocess.Popen[str] | None) -> None:
    """Waits until `condition` holds. Raises AssertionError if the process, if any, ends before, or after a hang."""
    deadline = time.monotonic() + HANG_SECONDS
    while not condition():
        if process is not None and process.poll() is not None:
            assert condition(), process.communicate()
            return
        assert time.monotonic() < deadline
        time.sleep(0.02)


def read(path: Path) -> list[dict[str, Any]]:
    """Returns the whole lines of a JSON-lines file that is being written."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]


def last_step(path: Path) -> int:
    """Returns the step of the last whole line; 0 if there is none."""
    return max((int(row["step"]) for row in read(path)[-1:]), default=0)


def last_event(path: Path) -> str:
    """Returns the kind of the last whole line of events.jsonl; empty if there is none."""
    return "".join(row["event"] for row in read(path)[-1:])
