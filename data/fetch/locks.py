"""Locks between processes, so that one of them does the work and the others wait for it or do something else.

Files are written whole (`common.files`), which keeps readers safe. A lock only saves doing the work twice, so a file
system without locks is no error. The kernel releases a lock when its holder ends: a killed process leaves nothing to
clear by hand.
"""

import contextlib
import errno
import fcntl
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def file_lock(path: Path, *, wait: bool = True) -> Iterator[bool]:
    """Holds an exclusive lock on `path`; yields whether it is held (without `wait`, another process may hold it).

    Raises OSError when the file cannot be opened.
    """
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
