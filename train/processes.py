"""Ends a process of a job together with the one that started it."""

import contextlib
import os
import signal

import psutil

from common.processes import PARENT, end_with_parent


def stop_with_parent() -> None:
    """Makes the kernel send this process SIGTERM when its parent dies, even by SIGKILL, so that it saves and stops.

    Linux only.

    Raises SystemExit if the process that PARENT names has already ended, which the kernel does not report.
    """
    parent = os.environ.pop(PARENT, None)
    end_with_parent(int(parent) if parent is not None else None, signal.SIGTERM)


def end_stopped_children() -> None:
    """Kills the children of this process that are stopped (frozen): they cannot see that it ends.

    Others are left to end by themselves, once they have written what they hold.
    """
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.Error):
            if child.status() == psutil.STATUS_STOPPED:
                child.kill()
