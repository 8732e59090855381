"""Work done ahead of need, in one daemon thread per process, in the order it was asked for.

It is only ever a head start: a job that fails is logged, and whoever needs its result does the work, and meets the
error, in the foreground.
"""

import logging
import os
import queue
import threading
from collections.abc import Callable
from typing import Any

from data.errors import DataError

logger = logging.getLogger(__name__)


class Background:
    """Takes jobs; a copy in another process, forked or unpickled, starts with none."""

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[Callable[[], object]] = queue.SimpleQueue()
        self._process = 0

    def submit(self, job: Callable[[], object]) -> None:
        """Do this after what was submitted before."""
        if self._process != os.getpid():
            self._jobs, self._process = queue.SimpleQueue(), os.getpid()
            # A daemon, so that a download under way never keeps a finished run from ending.
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
        except (DataError, OSError) as error:
            logger.warning("ahead of need: %s", error)
