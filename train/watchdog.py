"""A thread per rank, outside the loop, that reports where a run hangs and ends it so that a scheduler can restart it.

The loop only notes where it is, with `enter(...)`: a tuple and a clock. Ranks enter the same places in the same order,
so the rank with the fewest entries is the one that the others wait for, in whatever call they wait. The threads share
their counts through the store of the process group, never through a collective, which may be what hangs.

The limit of a place outside of steps is learned from how long this start took there before: a save of a minute is not
given the time of a first conversion. Trainer and launcher enter their places for one thing each. A callback's hook
mostly has nothing to do, so it is learned only from the times at which it took a second or more. Some waits tell
nothing of the next one (for files that are fetched, for the disk when a run ends): such a place keeps the first limit.

A rank that is behind and over its limit writes the stacks of all its threads into runs/NAME/stuck/ and exits with
EXIT_STUCK from this thread: the main thread may be in C code and never return. A rank that waits leaves the decision to
the ranks it waits for, unless they have stopped reporting.
"""

import faulthandler
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import NamedTuple

import torch.distributed as dist

from train.distributed import Ranks
from train.errors import EXIT_STUCK
from train.processes import end_stopped_children
from train.run_folder import RunFolder
from train.watchdog_config import WatchdogConfig

MAX_PAUSE = 5.0  # seconds between two checks, at most
GRACE_SECONDS = 3.0  # that waiting ranks leave the stuck one to report and to exit
HARD_EXIT_SECONDS = 30.0  # beyond the limits: ends a process whose thread cannot run (C code holds the GIL) or write
LEAST_WORK = 1.0  # seconds: a callback's hook that took less had nothing to do, which says nothing of when it has
STORE_TIMEOUT = timedelta(seconds=10)


class Place(NamedTuple):
    """Where the main thread is."""

    number: int  # of places entered so far
    what: str
    owner: object
    step: int
    since: float
    limit: float  # seconds
    varies: bool = False  # whether its duration says nothing of the next one

    @property
    def name(self) -> str:
        """The place without its step."""
        return f"{type(self.owner).__name__}.{self.what}" if self.owner is not None else self.what

    def __str__(self) -> str:
        return f"{self.name} (step {self.step})"


class Report(NamedTuple):
    """What a rank's thread publishes: its place, the seconds in it, its limit, and a counter of reports."""

    number: int
    where: str
    seconds: float
    limit: float
    heartbeat: int


class Watchdog:
    """Watches this rank while it is entered as a context."""

    def __init__(
        self, config: WatchdogConfig, ranks: Ranks, folder: RunFolder, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Measures all limits with `clock`, in seconds."""
        self.step = 0  # the trainer's step, for messages
        self._config = config
        self._ranks = ranks
        self._folder = folder
        self._clock = clock
        self.place = Place(0, "start", None, 0, self._clock(), config.other_seconds)  # of the main thread
        self._first_step: int | None = None  # of this start
        self._limits = (config.step_seconds, config.other_seconds)
        self.longest: dict[str, float] = {}
        """Seconds of this start in a place, by its name; not of places that vary."""
        self._pause = min(MAX_PAUSE, min(config.warn_seconds, *self._limits) / 5)
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None
        self._store: dist.Store | None = None
        self._warned = -1  # number of the place for which a warning has been printed
        self._last_heartbeats: dict[int, tuple[int, float]] = {}  # rank -> its latest, and when it was first seen here
        self._overdue_since: float | None = None
        self._suspended = (-1, 0.0)  # number of a place, and the seconds in it in which this process stood still

    def enter(self, what: str, *, of: object = None, is_step: bool = False, varies: bool = False) -> None:
        """Notes that the main thread begins `what`. Ranks enter the same places in the same order.

        The first step has the limit of other places, since it compiles and allocates. What `varies` keeps that limit.
        """
        self._learn()
        if is_step and self._first_step is None:
            self._first_step = self.step
        is_step = is_step and self.step != self._first_step
        place = Place(self.place.number + 1, what, of, self.step, self._clock(), self._config.step_seconds)
        self.place = place if is_step else place._replace(limit=self._other_limit(place.name))
        if varies:
            self.place = place._replace(limit=self._config.other_seconds, varies=True)

    def go_on(self) -> None:
        """Notes that what this place does has come further: its limit counts from now. All ranks call it alike."""
        self.place = self.place._replace(number=self.place.number + 1, since=self._clock())

    def _learn(self) -> None:
        """Notes how long the main thread was in the place that it leaves."""
        missed = self._suspended[1] if self._suspended[0] == self.place.number else 0.0
        seconds = self._clock() - self.place.since - missed
        if not self.place.varies and (self.place.owner is None or seconds >= LEAST_WORK):
            self.longest[self.place.name] = max(seconds, self.longest.get(self.place.name, 0.0))

    def _other_limit(self, name: str) -> float:
        """Returns the limit of a place outside of steps, in seconds."""
        longest, config = self.longest.get(name), self._config
        if longest is None:
            return config.other_seconds
        return min(config.other_seconds, max(config.step_seconds, config.usual_factor * longest))

    def begin_again(self) -> None:
        """Notes that the run starts again in this process: the next step is a first one."""
        self._first_step = None

    def __enter__(self) -> "Watchdog":
        if self._config.enabled:
            self.enter("start")
            self._store = self._ranks.connect_to_store(STORE_TIMEOUT)
            self._thread = threading.Thread(target=self._watch, daemon=True, name="watchdog")
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        if self._thread is not None:
            self._thread.join(GRACE_SECONDS)
            faulthandler.cancel_dump_traceback_later()

    def _watch(self) -> None:
        heartbeat, checked = 0, self._clock()
        while not self._stopped.wait(self._pause):
            heartbeat += 1
            gap, checked = self._clock() - checked - self._pause, self._clock()
            faulthandler.dump_traceback_later(max(self._limits) + HARD_EXIT_SECONDS, exit=True)
            place = self.place
            if gap > GRACE_SECONDS:  # the whole process was suspended, by Ctrl-Z or a scheduler
                missed = self._suspended[1] if self._suspended[0] == place.number else 0.0
                self._suspended = (place.number, missed + gap)
            seconds = self._clock() - place.since
            if self._suspended[0] == place.number:
                seconds = max(0.0, seconds - self._suspended[1])
            own = Report(place.number, str(place), seconds, place.limit, heartbeat)
            self._publish(own)
            if seconds >= min(self._config.warn_seconds, place.limit):
                self._judge(own)
            else:
                self._overdue_since = None

    def _judge(self, own: Report) -> None:
        """Warns or ends the run if the others wait for this rank, or if the rank that is waited for does not report."""
        reports = {**self.read_reports(), self._ranks.rank: own}
        least = min(report.number for report in reports.values())
        behind = sorted(rank for rank, report in reports.items() if report.number == least)
        is_reporter = behind[0] == self._ranks.rank
        if self._ranks.rank in behind:
            if own.seconds >= own.limit:
                self._end(f"{_names(behind)} stuck in {own.where} for {own.seconds:.0f} s", is_reporter)
            if is_reporter and self._warned != own.number:
                self._warned = own.number
                print(f"{_names(behind)} in {own.where} since {own.seconds:.0f} s", file=sys.stderr, flush=True)
            return
        now = self._clock()
        silence = now - self._last_heartbeats[behind[0]][1]
        # Its thread reports from any place: silence is a process or a machine that stands still, whatever it was doing.
        is_silent = silence >= min(own.limit, self._config.step_seconds)
        if is_silent or reports[behind[0]].seconds >= reports[behind[0]].limit:
            self._overdue_since = self._overdue_since or now
            if now - self._overdue_since >= GRACE_SECONDS:
                where = (
                    f"{_names(behind)} silent for {silence:.0f} s, the last report came from {reports[behind[0]].where}"
                )
                is_first_waiting = min(set(reports) - set(behind)) == self._ranks.rank
                self._end(where, is_silent and is_first_waiting)

    def _end(self, what: str, is_reporter: bool) -> None:
        faulthandler.dump_traceback_later(HARD_EXIT_SECONDS, exit=True)  # in case one of the next lines hangs as well
        stacks = self._folder.stuck / f"rank-{self._ranks.rank:05d}.txt"
        if is_reporter:
            print(
                f"error: {what}: the run ends with exit code {EXIT_STUCK}, the same command goes on from the last "
                f"checkpoint; the stacks of all ranks are in {stacks.parent}",
                file=sys.stderr,
                flush=True,
            )
            faulthandler.dump_traceback(sys.stderr)
        try:
            stacks.parent.mkdir(parents=True, exist_ok=True)
            with stacks.open("w") as file:
                file.write(f"{what}\n")
                file.flush()
                faulthandler.dump_traceback(file)
            if is_reporter:
                self._folder.log_event("stuck", step=self.place.step, reason=what)
        except OSError:
            pass  # a failing file system may be why the run hangs; standard error has the same
        if not is_reporter:
            time.sleep(self._pause + GRACE_SECONDS)  # the exit of this rank would end the one that reports
        end_stopped_children()
        os._exit(EXIT_STUCK)

    def _publish(self, report: Report) -> None:
        if self._store is not None:
            try:
                self._store.set(_key(self._ranks.rank), json.dumps(report))
            except RuntimeError:  # the process that holds the store is gone: each rank decides alone
                self._store = None

    def read_reports(self) -> dict[int, Report]:
        """Returns the latest report of each other rank; empty if the store cannot be read."""
        others = [rank for rank in range(self._ranks.world_size) if rank != self._ranks.rank]
        if self._store is None or not others:
            return {}
        try:
            texts = self._store.multi_get([_key(rank) for rank in others])
        except RuntimeError:
            return {}
        reports = {rank: Report(*json.loads(text)) for rank, text in zip(others, texts, strict=True)}
        for rank, report in reports.items():
            if self._last_heartbeats.get(rank, (-1, 0.0))[0] != report.heartbeat:
                self._last_heartbeats[rank] = (report.heartbeat, self._clock())
        return reports


def _key(rank: int) -> str:
    return f"watchdog/{rank}"


def _names(ranks: list[int]) -> str:
    if len(ranks) == 1:
        return f"rank {ranks[0]} is"
    shown = ", ".join(map(str, ranks[:8])) + (f" and {len(ranks) - 8} more" if len(ranks) > 8 else "")
    return f"ranks {shown} are"
