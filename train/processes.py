"""Ends a process together with the one that started it."""

import contextlib
import ctypes
import os
import signal

PR_SET_PDEATHSIG = 1  # linux/prctl.h
PARENT = "REPO_PARENT_PID"  # environment variable: the process id of the parent


def stop_with_parent() -> None:
    """Makes the kernel send this process SIGTERM when its parent dies, even by SIGKILL, so that it saves and stops.

    Linux only.

    Raises SystemExit if the process that PARENT names has already ended, which the kernel does not report.
    """
    parent = os.environ.pop(PARENT, None)
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if parent is not None and os.getppid() != int(parent):
        raise SystemExit(128 + signal.SIGTERM)
