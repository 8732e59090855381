"""Starts the ranks of this machine, or of all, from this process, and passes signals on to them.

A way to launch that stays in the foreground is a `Foreground`: the command, and how its ranks are asked to stop.
launch/hostfile.py has the one that starts ranks over ssh.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType

import psutil

from common.processes import PARENT
from launch.ranks import shape_of
from launch.torchrun import say_killed
from train.config import RunConfig
from train.errors import EXIT_STOPPED, TrainError
from train.launch_config import LaunchWay
from train.run_folder import RunFolder
from train.signals import NOTICE, stop_signals

INHERITED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "GROUP_RANK")


@dataclass(frozen=True)
class Foreground:
    """A command whose end is the end of the run."""

    command: list[str]
    ranks: int
    """Ranks on this machine."""
    ask_to_stop: Callable[[subprocess.Popen[bytes]], None]
    """Asks the ranks of a running command to save and stop."""
    kill: Callable[[subprocess.Popen[bytes]], None]
    """Ends them at once."""
    is_rank: bool = False
    """Whether the command is the only rank itself, and not what starts the ranks."""


def on_this_machine(config: RunConfig) -> Foreground:
    """Returns the only rank, or torchrun, which starts those of this machine. Raises TrainError as `shape_of` does."""
    nodes, ranks = shape_of(config)
    worker = ["train", "--config", str(RunFolder.of(config).launch)]
    if (nodes, ranks) == (1, 1):  # torchrun would have nothing to do, and imports torch for it
        return Foreground([sys.executable, "-u", "-m", *worker], 1, terminate, kill, is_rank=True)
    meeting = ["--standalone"]
    if config.launch.way is LaunchWay.nodes:
        at = f"--rdzv-endpoint={config.launch.rendezvous}"
        meeting = [f"--nnodes={nodes}", "--rdzv-backend=c10d", f"--rdzv-id={config.name}", at]
    command = [sys.executable, "-m", "launch.torchrun", *meeting, f"--nproc-per-node={ranks}"]
    return Foreground([*command, "--module", *worker], ranks, terminate, kill)


def check_meeting(config: RunConfig) -> None:
    """Raises TrainError if the host at which the machines meet has no address: torch would look for it for minutes."""
    if config.launch.way is LaunchWay.nodes and config.launch.rendezvous is not None:
        host = config.launch.rendezvous.rpartition(":")[0].strip("[]")
        try:
            socket.getaddrinfo(host, None)
        except OSError as error:
            raise TrainError(
                f"launch.rendezvous={config.launch.rendezvous}: {host} has no address here ({error})"
            ) from None


def terminate(process: subprocess.Popen[bytes]) -> None:
    """Sends SIGTERM to the rank, or to torchrun, which passes it on to its ranks."""
    process.terminate()
    process.send_signal(signal.SIGCONT)  # one that is stopped takes no signal before it goes on


def kill(process: subprocess.Popen[bytes]) -> None:
    """Sends SIGKILL to a process and its descendants: ranks have sessions of their own, no process group has all."""
    process.send_signal(signal.SIGSTOP)  # so that it starts no more; after its death its ranks cannot be found
    descendants = []
    with contextlib.suppress(psutil.NoSuchProcess):  # it has just ended
        descendants = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    for descendant in descendants:
        with contextlib.suppress(psutil.NoSuchProcess):
            descendant.kill()


def run_in_foreground(job: Foreground) -> int:
    """Runs a job, whose config the file RunFolder.launch holds, to its end; returns the first failing rank's exit code.

    Returns EXIT_STOPPED after a signal.
    """
    environment = {name: value for name, value in os.environ.items() if name not in INHERITED}
    environment[PARENT] = str(os.getpid())
    environment.setdefault("TOKENIZERS_PARALLELISM", "false")
    environment.setdefault("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // job.ranks)))
    stop = _Stop(job)
    # A session of its own, so that Ctrl-C reaches only this process; no standard input, so that nothing waits for it.
    process = subprocess.Popen(job.command, env=environment, start_new_session=True, stdin=subprocess.DEVNULL)
    while (code := _wait(process)) is None:
        stop.pass_on(process)
    if stop.at_once:
        print("stopped at once: the same command goes on from the newest checkpoint", file=sys.stderr)
    if code < 0:  # the only rank or torchrun itself was killed
        if job.is_rank and not stop.requested:
            say_killed(0, signal.Signals(-code))
        code = 128 - code
    # A rank that was still starting had nothing to save, and died of the signal.
    return EXIT_STOPPED if stop.requested and code == 128 + signal.SIGTERM else code


def _wait(process: subprocess.Popen[bytes]) -> int | None:
    try:
        return process.wait(timeout=0.2)
    except subprocess.TimeoutExpired:
        return None


class _Stop:
    """Catches signals that ask to stop; a second Ctrl-C kills the job."""

    def __init__(self, job: Foreground) -> None:
        self.requested = False
        self._job = job
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

    @property
    def at_once(self) -> bool:
        """Whether a second Ctrl-C asked to end the ranks without saving."""
        return self._num_interrupts > 1

    def pass_on(self, process: subprocess.Popen[bytes]) -> None:
        """Passes a request on to the ranks, once."""
        if self.at_once:
            self._job.kill(process)
        elif self.requested and not self._passed_on:
            self._job.ask_to_stop(process)
            self._passed_on = True
