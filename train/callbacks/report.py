"""Keeps report.html up to date with a separate process: the trainer only starts it, which takes milliseconds.

One process at a time, in a session of its own so that Ctrl-C does not reach it, at the lowest priority; the end of the
run waits for the last one. The page appears in one rename, so the process may be killed at any moment.
"""

import logging
import subprocess
import sys
import time
from pathlib import Path

from train.callbacks.callback import Callback, TrainerInterface
from train.callbacks.console import Screen
from train.errors import Stop

logger = logging.getLogger(__name__)

TOP = Path(__file__).parents[2]  # where `python -m report` is found
CLOSE_TIMEOUT = 60.0  # seconds that the end of a run waits for its page


class Report(Callback):
    """Writes the page every `seconds`, and once more at the end of the run."""

    main_rank_only = True

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._due = time.monotonic()
        self._process: subprocess.Popen[str] | None = None

    def on_step_end(self, trainer: TrainerInterface) -> None:
        is_busy = self._process is not None and self._process.poll() is None  # asked at every step: leaves no zombie
        if is_busy or time.monotonic() < self._due:
            return
        self._start(trainer.folder.path, "--nice")
        self._due = time.monotonic() + self._seconds

    def on_stop(self, trainer: TrainerInterface, stop: Stop) -> None:
        self.close()  # an older page, perhaps half written
        self._start(trainer.folder.path)
        if self._process is None:
            return
        try:
            _, problem = self._process.communicate(timeout=CLOSE_TIMEOUT)
        except subprocess.TimeoutExpired:
            problem = f"not done within {CLOSE_TIMEOUT} seconds"
        if self._process.returncode == 0:
            Screen(highlight=False, soft_wrap=True).print(f"report: {trainer.folder.report}", markup=False)
        else:
            last = (problem.strip().splitlines() or ["it was killed"])[-1]
            logger.warning("the report could not be written: %s", last)

    def close(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.communicate()

    def _start(self, run: Path, *options: str) -> None:
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "report", str(run.resolve()), *options],
                cwd=TOP,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
        except OSError as error:  # no memory for a process, say: a page is not worth a run
            logger.warning("the report could not be written: %s", error)
            self._process = None
