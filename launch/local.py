"""Starts torchrun on this machine, and passes signals on to it.

Another way to launch is another function of the same form: it takes a composed config, whose file the workers read, and
returns an exit code; launch/__main__.py calls it.
"""

import contextlib
import os
import signal
import subprocess
import sys
from types import FrameType

import psutil

from train.config import RunConfig, rows_per_rank
from train.errors import EXIT_STOPPED, TrainError
from train.processes import PARENT
from train.run_folder import RunFolder
from train.signals import NOTICE, stop_signals

INHERITED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "GROUP_RANK")


def count_gpus() -> int:
    """Returns the number of GPUs that CUDA would see, without loading CUDA."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([device for device in visible.split(",") if device.strip() not in ("", "-1")])
    try:
        listing = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return 0
    return sum(line.startswith("GPU ") for line in listing.stdout.splitlines())


def processes_of(config: RunConfig) -> int:
    """Returns the number of ranks on this machine.

    Raises TrainError if there are fewer GPUs than that, or if the batch does not divide over them.
    """
    num_gpus = count_gpus()
    num_processes = config.launch.processes or num_gpus or config.launch.cpu_processes
    if num_gpus and num_processes > num_gpus:
        raise TrainError(
            f"launch.processes={num_processes}, but {num_gpus} GPUs are visible: use launch.processes={num_gpus}"
        )
    rows_per_rank(config, num_processes)
    return num_processes


def torchrun_command(config: RunConfig) -> list[str]:
    """Returns the command that starts the ranks. Raises TrainError as `processes_of` does."""
    command = [sys.executable, "-m", "launch.torchrun", "--standalone", f"--nproc-per-node={processes_of(config)}"]
    return [*command, "--module", "train", "--config", str(RunFolder.of(config).launch)]


def launch_local(config: RunConfig) -> int:
    """Runs `config`, which the file RunFolder.launch holds, to its end; returns the first failing rank's exit code.

    Returns EXIT_STOPPED after a signal. Raises TrainError if there are fewer GPUs than processes, or if the batch does
    not divide over them.
    """
    command = torchrun_command(config)
    num_processes = processes_of(config)
    environment = {name: value for name, value in os.environ.items() if name not in INHERITED}
    environment[PARENT] = str(os.getpid())
    environment.setdefault("TOKENIZERS_PARALLELISM", "false")
    environment.setdefault("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // num_processes)))
    stop = _Stop()
    # A session of its own, so that Ctrl-C reaches only this process; no standard input, so that nothing waits for it.
    process = subprocess.Popen(command, env=environment, start_new_session=True, stdin=subprocess.DEVNULL)
    while (code := _wait(process)) is None:
        stop.pass_on(process)
    code = 128 - code if code < 0 else code  # torchrun itself was killed
    # A rank that was still starting had nothing to save, and died of the signal.
    return EXIT_STOPPED if stop.requested and code == 128 + signal.SIGTERM else code


def _wait(process: subprocess.Popen[bytes]) -> int | None:
    try:
        return process.wait(timeout=0.2)
    except subprocess.TimeoutExpired:
        return None


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Sends SIGKILL to torchrun and all its descendants: ranks have sessions of their own, no process group has all."""
    process.send_signal(signal.SIGSTOP)  # so that it starts no more; after its death its ranks cannot be found
    descendants = []
    with contextlib.suppress(psutil.NoSuchProcess):  # it has just ended
        descendants = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    for descendant in descendants:
        with contextlib.suppress(psutil.NoSuchProcess):
            descendant.kill()


class _Stop:
    """Catches signals that ask to stop; a second Ctrl-C kills the job."""

    def __init__(self) -> None:
        self.requested = False
        self._num_interrupts = 0
        self._passed_on = False
        for number in stop_signals():
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        if number == signal.SIGINT:
            self._num_interrupts += 1
            if self._num_interrupts == 1:
                os.write(2, NOTICE)

    def pass_on(self, process: subprocess.Popen[bytes]) -> None:
        """Passes a request on to torchrun, once, which passes it on to the ranks."""
        if self._num_interrupts > 1:
            _kill(process)
        elif self.requested and not self._passed_on:
            process.terminate()
            process.send_signal(signal.SIGCONT)  # one that is stopped takes no signal before it goes on
            self._passed_on = True
