"""Work in daemon threads, which never keep a finished or interrupted process from ending.

Work done ahead of need has one thread per process, and is done in the order it was asked for. It is only ever a head
start: a job that fails is logged, and whoever needs its result does the work, and meets the error, in the foreground.
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
    """The results for all items, several at a time, started in this order.

    An error is raised, and an interrupt ends the wait, at once: nothing new begins, and what is under way is left to
    its threads.
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
        threading.Thread(target=work, daemon=True).start()
    try:
        wait(futures, return_when=FIRST_EXCEPTION)
    finally:
        waiting.clear()
    failed = next((future for future in futures if future.done() and future.exception()), None)
    return [(failed or future).result() for future in futures]


class Background:
    """Takes jobs; a copy in another process, forked or unpickled, starts with none."""

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[Callable[[], object]] = queue.SimpleQueue()
        self._process = 0

    def submit(self, job: Callable[[], object]) -> None:
        """Do this after what was submitted before."""
        if self._process != os.getpid():
            self._jobs, self._process = queue.SimpleQueue(), os.getpid()
            threading.Thread(target=_work, args=(self._jobs,), daemon=True, name="data ahead").start()
        self._jobs.put(job)

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__()  # type: ignore[misc]


def _work(jobs: queue.SimpleQueue[Callable[[], object]]) -> None:
    while True:
        try:
            jobs.get()()
        except Exception as error:  # whatever it is, the next job has its turn
            logger.warning("ahead of need: %s", error, exc_info=not isinstance(error, DataError | OSError))
