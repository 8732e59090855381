"""Ends a process of a job together with the one that started it."""

import os
import signal

from common.processes import end_with_parent

PARENT = "REPO_PARENT_PID"  # environment variable: the process id of the parent


def stop_with_parent() -> None:
    """Makes the kernel send this process SIGTERM when its parent dies, even by SIGKILL, so that it saves and stops.

    Linux only.

    Raises SystemExit if the process that PARENT names has already ended, which the kernel does not report.
    """
    parent = os.environ.pop(PARENT, None)
    end_with_parent(int(parent) if parent is not None else None, signal.SIGTERM)
