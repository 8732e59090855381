"""Files that several processes make appear whole or not at all, and a lock ends with its holder."""

import multiprocessing
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from data.fetch.locks import atomic_write, file_lock

SIZE = 1 << 20


def _write_often(path: Path, byte: int) -> None:
    for _ in range(100):
        with atomic_write(path) as file:
            for _ in range(16):
                file.write(bytes([byte]) * (SIZE // 16))


def test_readers_see_whole_files_only(tmp_path: Path) -> None:
    path = tmp_path / "file"
    writers = [multiprocessing.Process(target=_write_often, args=(path, byte)) for byte in (1, 2)]
    for writer in writers:
        writer.start()
    num_reads = 0
    while any(writer.is_alive() for writer in writers):
        if path.exists():
            content = path.read_bytes()
            assert content == content[:1] * SIZE
            num_reads += 1
    assert num_reads > 5
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_write_keeps_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"before")
    with pytest.raises(RuntimeError), atomic_write(path) as file:
        file.write(b"after")
        raise RuntimeError
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


def test_threads_that_write_the_same_file_do_not_share_its_partial(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(_write_often, [path] * 4, range(4)))
    assert len(set(path.read_bytes())) == 1
    assert list(tmp_path.iterdir()) == [path]


def _hold(path: Path, held: "multiprocessing.Queue[bool]") -> None:
    with file_lock(path) as got:
        held.put(got)
        time.sleep(60)


def test_a_lock_excludes_others_and_ends_with_its_holder(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    held: multiprocessing.Queue[bool] = multiprocessing.Queue()
    holder = multiprocessing.Process(target=_hold, args=(path, held))
    holder.start()
    assert held.get(timeout=10)
    with file_lock(path, wait=False) as got:
        assert not got
    assert holder.pid is not None
    os.kill(holder.pid, signal.SIGKILL)
    with file_lock(path) as got:
        assert got
    holder.join()
