"""Ports of this machine for tests, which no other process can take between the choice and the use.

A server that may take any port binds 0 and says which one it got. These are for what has to be told one before.
"""

import fcntl
import os
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

FIRST, STOP = 20_010, 29_400
"""Ports to hold: the kernel gives connections those from 32,768 on, and torch's own default is 29,500."""

_held: set[int] = set()  # by this process, for which locks do not exclude each other
_locks: list[IO[bytes]] = []  # of a file that has a byte for each port: to close it ends the locks


def hold_ports(number: int = 1) -> int:
    """Returns the first of so many ports in a row, all free, and no other process of tests gets them while this one is.

    Each is locked by its byte of a file that all processes of tests share, and lies where no connection gets its port.
    """
    for first in range(FIRST, STOP - number + 1):
        ports = range(first, first + number)
        if _held.isdisjoint(ports) and _lock(first, number, fcntl.LOCK_NB):
            if all(map(_is_free, ports)):
                _held.update(ports)
                return first
            _unlock(first, number)
    raise AssertionError(f"no {number} ports in a row are free")


@contextmanager
def alone_at(port: int) -> Iterator[None]:
    """Waits until no other process of tests is here with the same port, which cannot be chosen."""
    _lock(port, 1, 0)
    try:
        yield
    finally:
        _unlock(port, 1)


@contextmanager
def refusing_port() -> Iterator[int]:
    """Yields a port that refuses connections: it is bound, so that no other process takes it, and does not listen."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


def _lock(first: int, number: int, wait: int) -> bool:
    if not _locks:
        path = Path(tempfile.gettempdir()) / f"ports-of-tests-{os.getuid()}.lock"
        _locks.append(path.open("ab"))
    try:
        fcntl.lockf(_locks[0], fcntl.LOCK_EX | wait, number, first)
    except OSError:
        return False
    return True


def _unlock(first: int, number: int) -> None:
    fcntl.lockf(_locks[0], fcntl.LOCK_UN, number, first)


def _is_free(port: int) -> bool:
    with socket.socket() as probe, suppress(OSError):
        probe.bind(("", port))
        return True
    return False
