"""Files that several processes want to make: one makes them, and they appear whole or not at all.

The rename alone keeps readers safe. The lock only saves doing the work twice, so a file system without locks is no
error. The kernel drops a lock with its holder: a killed process leaves nothing to clear by hand.
"""

import contextlib
import errno
import fcntl
import os
import re
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

STALE_SECONDS = 3600.0


@contextlib.contextmanager
def file_lock(path: Path, *, wait: bool = True) -> Iterator[bool]:
    """Hold an exclusive lock on `path`; yields whether it is held (False: taken by another, and not waited for)."""
    with path.open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        except OSError as error:
            if error.errno not in (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP):
                raise
        try:
            yield True
        finally:
            # A process forked meanwhile has the file open too: closing it here would not release the lock.
            with contextlib.suppress(OSError):
                fcntl.flock(file, fcntl.LOCK_UN)


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """Write to a private file beside `path`, flushed to disk and renamed over `path` on success, removed on failure."""
    partial = path.with_name(f".{path.name}{_mark()}")
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def remove_partials(path: Path) -> None:
    """Remove what killed writers of `path`, whose name may be a pattern, left behind.

    Partial files of processes that this host no longer has, and those that nobody has written to for an hour.
    """
    for partial in path.parent.glob(f".{path.name}.*.partial"):
        with contextlib.suppress(OSError):
            if _is_orphan(partial) or time.time() - partial.stat().st_mtime > STALE_SECONDS:
                partial.unlink()


def is_own(path: Path) -> bool:
    """Whether this is a partial file that this thread is writing."""
    return path.name.endswith(_mark())


def _host() -> str:
    return socket.gethostname().replace(".", "_")


def _mark() -> str:
    """How the names of this thread's partial files end."""
    return f".{_host()}-{os.getpid()}-{threading.get_native_id()}.partial"


def _is_orphan(partial: Path) -> bool:
    writer = re.fullmatch(rf".*\.{re.escape(_host())}-(\d+)-\d+\.partial", partial.name)
    if writer is None:
        return False
    try:
        os.kill(int(writer[1]), 0)
    except ProcessLookupError:
        return True
    except OSError:  # somebody else's
        pass
    return False
