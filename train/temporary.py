"""A folder of this process for temporary files of libraries that leave them behind: W&B, when it is killed.

It lies in the system's folder for temporary files (TMPDIR), under a name of its own, and is locked while this process
and its forks live: by the kernel, so that a killed process cannot keep it. The next process that makes one deletes
those that are not locked. (The clean-up of old temporary files by systemd respects the same lock.)
"""

import atexit
import contextlib
import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

NO_LOCKS = (
    errno.ENOSYS,
    errno.ENOLCK,
    errno.EOPNOTSUPP,
)  # of a file system: no process can take a folder for an old one
PREFIX = "repo-cpt-"  # short: paths of sockets in it are limited to 108 bytes

_own: dict[int, Path] = {}  # process id -> folder: a fork has none


def own_folder() -> Path:
    """Returns the temporary folder of this process, made at the first call. Raises OSError."""
    if os.getpid() not in _own:
        _remove_old_folders(Path(tempfile.gettempdir()))
        _own[os.getpid()] = _make_folder()
        atexit.register(remove_own_folder)
    return _own[os.getpid()]


@contextlib.contextmanager
def import_into_own_folder() -> Iterator[None]:
    """Lets modules that are imported in this context make their temporary folders in that of this process."""
    before = tempfile.gettempdir()
    tempfile.tempdir = str(own_folder())
    try:
        yield
    finally:
        tempfile.tempdir = before


@contextlib.contextmanager
def start_in_own_folder() -> Iterator[None]:
    """Lets processes that are started in this context make their temporary files in the folder of this process.

    They inherit TMPDIR. What this process makes meanwhile lies there, too: W&B makes a folder to talk to its process.
    """
    before = os.environ.get("TMPDIR")
    with import_into_own_folder():
        os.environ["TMPDIR"] = str(own_folder())
        try:
            yield
        finally:
            if before is None:
                del os.environ["TMPDIR"]
            else:
                os.environ["TMPDIR"] = before


def remove_own_folder() -> None:
    """Deletes the temporary folder of this process, if it has one; to be called when the process ends."""
    if folder := _own.pop(os.getpid(), None):
        shutil.rmtree(folder, ignore_errors=True)


def _make_folder() -> Path:
    while True:
        folder = Path(tempfile.mkdtemp(prefix=PREFIX))
        with contextlib.suppress(FileNotFoundError, BlockingIOError):  # another process took it for an old one
            try:
                _lock(folder)
            except OSError as error:
                if error.errno not in NO_LOCKS:
                    raise
            if folder.is_dir():
                return folder


def _remove_old_folders(root: Path) -> None:
    for folder in root.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):
            descriptor = _lock(folder)
            shutil.rmtree(folder, ignore_errors=True)
            os.close(descriptor)


def _lock(folder: Path) -> int:
    """Returns the open, locked folder. Raises OSError, and BlockingIOError if another process has the lock."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor
