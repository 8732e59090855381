"""Signals that ask a run to stop: it saves at the end of the step and ends with EXIT_STOPPED."""

import os
import signal
from types import FrameType
from typing import Any

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)  # SIGUSR1: SLURM's warning
NOTICE = b"\nsaving a checkpoint, then stopping (Ctrl-C again: stop at once, without saving)\n"


def stop_signals() -> list[signal.Signals]:
    """Returns STOP_SIGNALS, without SIGHUP if this process was started under `nohup`."""
    nohup = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return [number for number in STOP_SIGNALS if not (nohup and number == signal.SIGHUP)]


def ignore_stop_signals() -> None:
    """Makes them change nothing from now on: the exit code of this process is decided."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)


class StopSignals:
    """A context in which stop signals are recorded instead of ending the process; it may be entered again.

    With `until_exit` they are recorded after it too, unless it was left by an error: the run has ended, and the process
    ends with its exit code. Everywhere, a second SIGINT ends the process at once.
    """

    def __init__(self, *, is_main: bool, until_exit: bool = False) -> None:
        self.received: str | None = None  # the name of the first
        self._is_main = is_main
        self._until_exit = until_exit
        self._before: dict[signal.Signals, Any] = {}  # what the first entry found
        self._has_ended = False

    def __enter__(self) -> "StopSignals":
        self._has_ended = False
        for number in stop_signals():
            if number not in self._before:
                self._before[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        self._has_ended = True
        if self._until_exit and error is None:
            return
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.received = self.received or signal.Signals(number).name  # a launcher passes a Ctrl-C on as SIGTERM
        if number == signal.SIGINT:
            # The system's own handling from now on: it ends the process even while that waits for a lost peer in C.
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            if self._is_main and not self._has_ended:
                os.write(2, NOTICE)
