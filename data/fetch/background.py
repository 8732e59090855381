"""Work in daemon threads, which never keep a finished or interrupted process from ending.

Work ahead of need (`Background`) has one thread per process and is done in the order of submission. It only saves time:
a job that fails is logged, and the caller that needs its result does the work again in the foreground, where the
error is raised.
"""

import logging
import os
import queue
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, wait
from typing import Any, TypeVar

from data.errors import DataError

logger = logging.getLogger(__name__)

Item = TypeVar("Item")
Result = TypeVar("Result")


def run_all(function: Callable[[Item], Result], items: Sequence[Item], num_threads: int) -> list[Result]:
    """Returns the results for all items in their order; `num_threads` at a time, started in this order.

    Raises the first error at once, and KeyboardInterrupt: no further item is started, and calls that are running are
    left to their threads.
    """
    futures: list[Future[Result]] = [Future() for _ in items]
    waiting = deque(zip(items, futures, strict=True))

    def work() -> None:
        while True:
            try:
                item, future = waiting.popleft()
            except IndexError:
                return
            try:
                future.set_result(function(item))
            except BaseException as error:
                future.set_exception(error)

    for _ in range(min(num_threads, len(items))):
        threading.Thread(target=work, daemon=True, name="one of many").start()
    try:
        wait(futures, return_when=FIRST_EXCEPTION)
    finally:
        waiting.clear()
    failed = next((future for future in futures if future.done() and future.exception()), None)
    return [(failed or future).result() for future in futures]


class Background:
    """A queue of jobs and its thread; a copy in another process, forked or unpickled, starts empty."""

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[Callable[[], object]] = queue.SimpleQueue()
        self._process = 0

    def submit(self, job: Callable[[], object]) -> None:
        """Runs this job after those submitted before; returns at once."""
        if self._process != os.getpid():
            self._jobs, self._process = queue.SimpleQueue(), os.getpid()
            threading.Thread(target=_work, args=(self._jobs,), daemon=True, name="data ahead").start()
        self._jobs.put(job)

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__()  # type: ignore[misc]


class Later:
    """Jobs that wait until `begin`, and are then done one after another by a thread."""

    def __init__(self) -> None:
        self._jobs: list[Callable[[], object]] = []
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self.is_waiting = True
        """Whether jobs are taken still."""

    def add(self, job: Callable[[], object]) -> bool:
        """Takes a job; returns False once those that came before have begun: then it is not taken."""
        with self._lock:
            if self.is_waiting:
                self._jobs.append(job)
            return self.is_waiting

    def begin(self) -> None:
        """Begins with the jobs, at the first call; returns at once."""
        with self._lock:
            if self.is_waiting and self._jobs:
                self._thread = threading.Thread(target=self._work, daemon=True, name="rows to the disk")
                self._thread.start()
            self.is_waiting = False

    def finish(self) -> None:
        """Returns once all jobs are done."""
        self.begin()
        if self._thread not in (None, threading.current_thread()):
            self._thread.join()

    def _work(self) -> None:
        level = logging.WARNING
        while self._jobs:
            if not _do(self._jobs.pop(0), "rows that were read are not kept", level):
                level = logging.DEBUG  # on a full disk all of them fail: one line says so


def _work(jobs: queue.SimpleQueue[Callable[[], object]]) -> None:
    while True:
        _do(jobs.get(), "ahead of need", logging.WARNING)


def _do(job: Callable[[], object], failure: str, level: int) -> bool:
    """Does a job, and returns whether it succeeded; else logs why, after what the `failure` is."""
    try:
        job()
    except Exception as error:  # whatever it is, the next job still runs
        logger.log(level, "%s: %s", failure, error, exc_info=not isinstance(error, DataError | OSError))
        return False
    return True
