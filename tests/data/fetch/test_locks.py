"""A lock excludes other processes, and ends with its holder."""

import multiprocessing
import os
import signal
import time
from pathlib import Path

from data.fetch.locks import file_lock


def _hold(path: Path, held: "multiprocessing.Queue[bool]") -> None:
    with file_lock(path) as got:
        held.put(got)
        time.sleep(3600)


def test_a_lock_excludes_others_and_ends_with_its_holder(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    held: multiprocessing.Queue[bool] = multiprocessing.Queue()
    holder = multiprocessing.Process(target=_hold, args=(path, held))
    holder.start()
    assert held.get(timeout=600)
    with file_lock(path, wait=False) as got:
        assert not got
    assert holder.pid is not None
    os.kill(holder.pid, signal.SIGKILL)
    with file_lock(path) as got:
        assert got
    holder.join()
