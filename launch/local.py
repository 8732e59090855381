"""One torchrun on this machine, and the signals that reach it.

The seam for other ways to launch is `LAUNCHERS` in launch/__main__.py: a launcher takes a composed config, whose file
the workers read, and returns an exit code.
"""

import os
import signal
import subprocess
import sys
from types import FrameType

import psutil

from train.config import RunConfig, rows_per_rank
from train.run_folder import RunFolder

INHERITED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "GROUP_RANK")


def count_gpus() -> int:
    """GPUs that CUDA would see, without loading it."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([device for device in visible.split(",") if device.strip() not in ("", "-1")])
    try:
        listing = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return 0
    return sum(line.startswith("GPU ") for line in listing.stdout.splitlines())


def launch_local(config: RunConfig) -> int:
    """Run `config`, whose run folder holds its launch.yaml, to its end; returns the first failing rank's exit code.

    Raises TrainError if the batch does not divide over the processes.
    """
    num_gpus = count_gpus()
    num_processes = config.launch.processes or num_gpus or config.launch.cpu_processes
    rows_per_rank(config, num_processes)
    command = [sys.executable, "-m", "launch.torchrun", "--standalone", f"--nproc-per-node={num_processes}"]
    command += ["--module", "train", "--config", str(RunFolder.of(config).launch)]
    environment = {name: value for name, value in os.environ.items() if name not in INHERITED}
    environment.setdefault("TOKENIZERS_PARALLELISM", "false")
    environment.setdefault("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // num_processes)))
    if not num_gpus:
        environment["DS_ACCELERATOR"] = "cpu"
    # A session of its own, so that Ctrl-C reaches this process alone, which passes it on to the ranks and not to
    # torchrun: that would give them 30 seconds before it kills them, too little to save a large model.
    process = subprocess.Popen(command, env=environment, start_new_session=True)
    forward = _Forwarder(process.pid)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, forward)
    return process.wait()


class _Forwarder:
    """Signal handler: pass the first signal on to the ranks; a second Ctrl-C ends everything at once."""

    def __init__(self, torchrun: int) -> None:
        self._torchrun = torchrun
        self._interrupted = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self._interrupted:
            os.killpg(self._torchrun, signal.SIGKILL)
            return
        if number == signal.SIGINT:
            self._interrupted = True
            print("\nsaving a checkpoint, then stopping (Ctrl-C again: stop at once, without saving)", file=sys.stderr)
        for rank in _children(self._torchrun):
            try:
                rank.send_signal(number)
            except psutil.NoSuchProcess:
                continue


def _children(pid: int) -> list[psutil.Process]:
    try:
        return list(psutil.Process(pid).children())
    except psutil.NoSuchProcess:
        return []
