"""Runs the members of a sweep: one job each, in turn or several at once; what is finished is not started again.

A member is the command `python -m launch` with its values, in a process of its own: what it returns is read, and one
that fails does not end the others. Whether a member is done is known from its run folder, so the same command again,
after a kill too, starts only the rest, and a sweep can be extended by further values. A stop signal reaches all members
that run; they save, and no further one starts.
"""

import contextlib
import os
import shlex
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import IO, Protocol

from common.processes import PARENT
from common.words import counted
from launch.ranks import count_gpus, gpus_in_words, shape_of
from launch.runs import best_run, print_sweep
from report.comparison import differing, flat
from report.overview import overview
from report.run_folder import FINISHED
from train.compose.app import load_run_config
from train.compose.sweep import Member
from train.config import RunConfig
from train.errors import EXIT_OK, EXIT_STOPPED, EXIT_USER_ERROR, TrainError
from train.run_folder import RunFolder
from train.signals import stop_signals

POLL_SECONDS = 0.2
LOG = "console.log"
"""What a member prints, in its folder, where several run at once."""


def run_sweep(members: Sequence[Member], *, is_dry: bool = False) -> int:
    """Runs all members that are not finished, prints how they ended and compares them; returns the exit code.

    It is EXIT_STOPPED after a signal, else the highest of the members' codes. Raises TrainError, before anything
    starts, if a member cannot be started on these GPUs, or if a finished one was trained with another config.
    """
    at_once = members[0].config.launch.parallel
    places = gpu_shares(at_once)
    for member in members:
        shape_of(member.config, None if places[0] is None else len(places[0].split(",")))
    waiting = [member for member in members if not is_finished(member.config)]
    if is_dry:
        for member in waiting:
            print(shlex.join(command(member)))
        return EXIT_OK
    from launch.inputs import check_inputs  # here, as it imports numpy and all that reads data

    for member in waiting:
        check_inputs(member.config)
    print(
        f"{members[0].sweep}: {counted(len(members), 'run')}, {len(members) - len(waiting)} of them finished",
        flush=True,
    )
    codes: dict[str, int] = {}
    sweep = Pool(_InTurn(waiting, codes), places)
    sweep.run()
    failed = {name: code for name, code in codes.items() if code not in (EXIT_OK, EXIT_STOPPED)}
    compare_members(members)
    if sweep.stopped:
        print("\nstopped: the same command does what is left")
        return EXIT_STOPPED
    by_name = {member.config.name: member for member in members}
    for name in [name for name in failed if _is_of_another_launch(by_name[name].config, failed[name])]:
        print(f"{name} was started by another launch")
        del failed[name]
    for name, code in failed.items():
        reason = _last_error(by_name[name].config) if at_once > 1 else ""
        alone = shlex.join(command(by_name[name]))
        print(f"error: {name} ended with code {code}{reason}; alone: {alone}", file=sys.stderr)
    return max(failed.values(), default=EXIT_OK)


def compare_members(members: Sequence[Member]) -> None:
    """Prints the comparison of the members, and the commands that go on from the best once all are finished."""
    folders = [RunFolder.of(member.config) for member in members]
    comparison = print_sweep(members[0].sweep, folders)
    if comparison is None or not all(run.overview.state == FINISHED for run in comparison.runs):
        return
    setting = comparison.settings[0]
    if len(comparison.runs) < len(members) or setting.mean is None:
        return
    best = next(member for member in members if member.config.name == setting.runs[0].overview.name)
    seeds = f", the mean of {len(setting.runs)} seeds," if len(setting.runs) > 1 else ""
    values = " ".join(f"{key}={value}" for key, value in best.swept.items())
    score = f"{'eval loss' if comparison.is_evaluated else 'loss'} {setting.mean:.4f}{seeds} with {values}"
    print("\n".join(best_run(RunFolder.of(best.config), score, best.arguments)))


def _is_of_another_launch(config: RunConfig, code: int) -> bool:
    """Returns whether a member was refused because another process trains it, or has finished it meanwhile."""
    holder = RunFolder.of(config).holder()
    return code == EXIT_USER_ERROR and (is_finished(config) or (holder is not None and holder.is_alive() is True))


def _last_error(config: RunConfig) -> str:
    """Returns the message of a member that printed to a file, in brackets; nothing if that holds none."""
    try:
        lines = (RunFolder.of(config).path / LOG).read_text(errors="replace").splitlines()
    except OSError:
        return ""
    return next((f" ({line})" for line in reversed(lines) if line.startswith("error: ")), "")


def command(member: Member) -> list[str]:
    """Returns the command that runs a member alone."""
    return [sys.executable, "-m", "launch", *member.arguments]


def is_finished(config: RunConfig) -> bool:
    """Returns whether a run has done its steps. Raises TrainError if it has, with another config than this one."""
    folder = RunFolder.of(config)
    seen = overview(folder)
    if seen.state != FINISHED or seen.step < config.max_steps:
        return False
    now = flat(config.as_plain())
    if not differing([flat(folder.read_config()), now]):
        return True
    before = flat(load_run_config(folder.config).as_plain())  # slower: it knows old names, and keys that are new
    if changed := differing([before, now]):
        listed = ", ".join(f"{key} was {before.get(key)}, is {now.get(key)}" for key in changed)
        raise TrainError(f"{folder.path} is finished with another config ({listed}): set name= to train these too")
    return True


def gpu_shares(at_once: int) -> list[str | None]:
    """Returns the CUDA_VISIBLE_DEVICES of each place; None for all that are visible."""
    num_gpus = count_gpus()
    if at_once == 1 or num_gpus == 0:
        return [None] * at_once
    if num_gpus < at_once:
        raise TrainError(f"launch.parallel={at_once}, but {gpus_in_words(num_gpus)}: use launch.parallel={num_gpus}")
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    devices = [device for device in visible.split(",") if device] or [str(index) for index in range(num_gpus)]
    share = num_gpus // at_once
    return [",".join(devices[place * share : (place + 1) * share]) for place in range(at_once)]


@dataclass
class _Job:
    """A member that runs."""

    member: Member
    process: subprocess.Popen[bytes]
    place: str | None
    log: IO[bytes] | None


class Queue(Protocol):
    """What a pool asks for the members to start."""

    def take(self) -> Member | None:
        """Returns a member to start now, or None if there is none at the moment."""

    def is_over(self) -> bool:
        """Returns whether there will be none any more, unless one ends that runs; asked after `take` gave none."""

    def inherited(self, member: Member) -> tuple[int, ...]:
        """Returns the open files that the process of a member keeps open."""

    def ended(self, member: Member, code: int) -> None:
        """Takes note of the exit code of a member."""


@dataclass
class _InTurn:
    """Members in a given order."""

    members: Sequence[Member]
    codes: dict[str, int]
    """Filled with the exit code of every member that was started, by name."""

    def __post_init__(self) -> None:
        self._waiting = deque(self.members)

    def take(self) -> Member | None:
        """Returns the next."""
        return self._waiting.popleft() if self._waiting else None

    def is_over(self) -> bool:
        """Returns whether all were started."""
        return not self._waiting

    def inherited(self, member: Member) -> tuple[int, ...]:
        """Returns none."""
        return ()

    def ended(self, member: Member, code: int) -> None:
        """Takes note of the code."""
        self.codes[member.config.name] = code


class Pool:
    """Starts members as places become free, and passes signals on to those that run."""

    def __init__(self, queue: Queue, places: Sequence[str | None]) -> None:
        self._queue = queue
        self._has_logs = len(places) > 1
        self._free = list(places)
        self._running: list[_Job] = []
        self.stopped = False
        self._signals: list[int] = []

    def run(self) -> None:
        """Runs members until the queue is over, or a signal asks to stop."""
        for number in stop_signals():
            signal.signal(number, self._on_signal)
        while True:
            while self._free and not self.stopped and (member := self._queue.take()) is not None:
                self._start(member, self._free.pop(0))
            if not self._running and (self.stopped or self._queue.is_over()):
                return
            for taken in self._take_signals():
                for job in self._running:
                    job.process.send_signal(taken)
            ended = [job for job in self._running if job.process.poll() is not None]
            for job in ended:
                self._queue.ended(job.member, self._end(job))
            if not ended:
                self._wait()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.stopped = True
        self._signals.append(number)

    def _take_signals(self) -> list[int]:
        taken, self._signals = self._signals, []
        return taken

    def _start(self, member: Member, place: str | None) -> None:
        environment = {**os.environ, PARENT: str(os.getpid())}
        if place is not None:
            environment["CUDA_VISIBLE_DEVICES"] = place
        log = None
        values = " ".join(f"{key}={value}" for key, value in member.swept.items())
        if self._has_logs:
            folder = RunFolder.of(member.config)
            folder.path.mkdir(parents=True, exist_ok=True)
            log = (folder.path / LOG).open("ab")
        print(
            f"\n{member.config.name} starts: {values}" + (f"; it prints to {Path(log.name)}" if log else ""), flush=True
        )
        # A session of its own: Ctrl-C reaches only this process, which passes it on.
        process = subprocess.Popen(
            command(member),
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            pass_fds=self._queue.inherited(member),
        )
        self._running.append(_Job(member, process, place, log))

    def _end(self, job: _Job) -> int:
        self._running.remove(job)
        self._free.append(job.place)
        if job.log is not None:
            job.log.close()
        code = job.process.returncode
        code = 128 - code if code < 0 else code
        if self.stopped and code == 128 + signal.SIGTERM:
            code = EXIT_STOPPED  # it was still starting, and had nothing to save
        if code == EXIT_STOPPED:
            self.stopped = True  # it was asked to stop: by a person or a scheduler, who means the sweep
        elif code != EXIT_OK:
            print(f"{job.member.config.name} ended with code {code}", flush=True)
        return code

    def _wait(self) -> None:
        if len(self._running) != 1:
            time.sleep(POLL_SECONDS)
            return
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._running[0].process.wait(timeout=POLL_SECONDS)
