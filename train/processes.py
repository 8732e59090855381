"""What ties a process to the one that started it."""

import contextlib
import ctypes
import signal

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def stop_with_parent() -> None:
    """Have the kernel send this process SIGTERM when its parent dies, even of SIGKILL: it is to save and stop then, not
    to train on unseen. Linux only; elsewhere it does nothing.
    """
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
