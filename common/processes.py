"""Ends a process together with the one that started it."""

import contextlib
import ctypes
import os
import signal

PARENT = "REPO_PARENT_PID"  # environment variable: the process id of the parent
PR_SET_PDEATHSIG = 1  # linux/prctl.h


def end_with_parent(parent: int | None, number: signal.Signals) -> None:
    """Makes the kernel send this process a signal when its parent dies, even by SIGKILL. Linux only.

    Raises SystemExit if `parent`, the process id of the one that started it, has already ended, which the kernel does
    not report. The signal comes, too, when the thread of the parent ends that started this process.
    """
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number)
    if parent is not None and os.getppid() != parent:
        raise SystemExit(128 + number)
