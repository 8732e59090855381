"""Tries again what the network failed at, with growing pauses, and gives up with one sentence."""

import logging
import os
import time
from collections.abc import Callable
from typing import TypeVar

from data.errors import DataError

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

NUM_TRIES = 7  # without any progress: pauses of 1, 2, 4 ... seconds, a minute in all
FIRST_PAUSE = 1.0  # seconds
LONGEST_PAUSE = 300.0  # seconds, also where a server asks for more


def is_attended() -> bool:
    """Returns whether a person waits for this process: a rank of a job has to get over failures by itself."""
    return "RANK" not in os.environ


class TransientError(Exception):
    """A failure that may pass; `pause` is the wait in seconds that the server asked for, if it did."""

    def __init__(self, message: str, pause: float | None = None) -> None:
        super().__init__(message)
        self.pause = pause


def retried(
    attempt: Callable[[], Result],
    progress: Callable[[], int] = lambda: 0,
    warn: Callable[[str], None] = logger.warning,
) -> Result:
    """Returns the first result of `attempt` that is not TransientError.

    `progress()` is any count that grows while something arrives; `warn` gets a line for each failure. Raises DataError
    after NUM_TRIES failures in a row without progress: a slow transfer goes on however often it breaks off.
    """
    failures, reached = 0, progress()
    while True:
        try:
            return attempt()
        except TransientError as error:
            if progress() > reached:
                failures, reached = 0, progress()
            failures += 1
            if failures == NUM_TRIES:
                raise DataError(
                    f"{error}, {NUM_TRIES} times in a row; try again later, what is there is kept"
                ) from error
            pause = min(error.pause or FIRST_PAUSE * 2.0 ** (failures - 1), LONGEST_PAUSE)
            warn(f"{error}; trying again in {pause:.0f} s")
            time.sleep(pause)
