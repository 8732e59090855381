"""What ties a process to the one that started it."""

import contextlib
import ctypes
import os
import signal

PR_SET_PDEATHSIG = 1  # linux/prctl.h
PARENT = "REPO_PARENT_PID"  # environment variable: who started this process, to be found out should it be dead by now


def stop_with_parent() -> None:
    """Have the kernel send this process SIGTERM when its parent dies, even of SIGKILL: it is to save and stop then, not
    to train on unseen. Linux only.

    Raises SystemExit if the process that PARENT names, if any, is dead already: of that the kernel tells nothing.
    """
    parent = os.environ.pop(PARENT, None)
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if parent is not None and os.getppid() != int(parent):
        raise SystemExit(128 + signal.SIGTERM)
