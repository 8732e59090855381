"""Files that appear whole or not at all, durable on request.

A file is written under a temporary name beside its place and renamed over it. Readers see the old file or the new one.
`durable=True` also flushes the file and its folder to the disk: after a power failure the file is there, whole. Without
it, a crash of the process loses nothing, but a power failure may.
"""

import contextlib
import os
import re
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

STALE_SECONDS = 3600.0  # age of a temporary file of another host from which its writer counts as dead


@contextlib.contextmanager
def write_whole(path: Path, *, durable: bool) -> Iterator[BinaryIO]:
    """Yields a binary file that becomes `path` when the block ends, and is deleted when the block raises.

    Removes what killed writers of the same path left behind. Raises OSError.
    """
    partial = partial_of(path)
    try:
        with partial.open("wb") as file:
            yield file
            if durable:
                file.flush()
                os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    if durable:
        flush_to_disk(path.parent)


def write_text_whole(path: Path, text: str, *, durable: bool) -> None:
    """Writes UTF-8 text as `write_whole` does. Raises OSError."""
    with write_whole(path, durable=durable) as file:
        file.write(text.encode())


def flush_to_disk(path: Path) -> None:
    """Flushes a file's bytes, or a folder's entries, to the disk. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def partial_of(path: Path) -> Path:
    """Returns the temporary name under which this thread writes `path`, once what killed writers left is removed."""
    remove_partials(path)
    return path.with_name(f".{path.name}{_suffix()}")


def remove_partials(path: Path) -> None:
    """Deletes temporary files and folders of `path`, whose name may be a pattern, left by processes that ended.

    A writer is dead if this host has no such process, or if nothing was written for an hour.
    """
    for partial in path.parent.glob(f".{path.name}.*.partial"):
        with contextlib.suppress(OSError):
            if _is_orphan(partial) or time.time() - partial.stat().st_mtime > STALE_SECONDS:
                shutil.rmtree(partial) if partial.is_dir() else partial.unlink()


def is_own_partial(path: Path) -> bool:
    """Returns whether this is a temporary file that this thread is writing."""
    return path.name.endswith(_suffix())


def _host() -> str:
    return socket.gethostname().replace(".", "_")


def _suffix() -> str:
    """Returns how the names of this thread's temporary files end."""
    return f".{_host()}-{os.getpid()}-{threading.get_native_id()}.partial"


def _is_orphan(partial: Path) -> bool:
    writer = re.fullmatch(rf".*\.{re.escape(_host())}-(\d+)-\d+\.partial", partial.name)
    return writer is not None and has_ended(int(writer[1]))


def has_ended(process_id: int) -> bool:
    """Returns whether this host has no such process."""
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return True
    except OSError:  # a process of another user
        pass
    return False
