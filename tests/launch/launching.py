"""`python -m launch` as a person types it, on a run of seconds."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).parents[2]
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
    "micro_batch_size=2",
    "data.num_streams=4",
    "launch.processes=2",
    "wandb.mode=disabled",
    "logging.report_seconds=null",
)


def start(*arguments: str) -> subprocess.Popen[str]:
    """A launch in the background."""
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "launch", *arguments],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def end(process: subprocess.Popen[str], timeout: float = 90) -> subprocess.CompletedProcess[str]:
    """Waits for it; one that is late is ended with all it started."""
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        for child in [*psutil.Process(process.pid).children(recursive=True), process]:
            child.kill()
        raise
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def launch(*arguments: str) -> subprocess.CompletedProcess[str]:
    """A launch to its end."""
    return end(start(*arguments))


def ranks_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """Its worker processes."""
    descendants = psutil.Process(process.pid).children(recursive=True)
    return [child for child in descendants if child.cmdline()[1:4] == ["-u", "-m", "train"]]


def wait_for(condition: Callable[[], object], process: subprocess.Popen[str] | None, timeout: float = 60) -> None:
    """Until `condition` holds; raises AssertionError if the process, if any, ends before."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert process is None or process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def read(path: Path) -> list[dict[str, Any]]:
    """Whole lines of a JSON-lines file that is being written."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]
