"""A file is written whole or not at all."""

import multiprocessing
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from common.files import write_text_whole, write_whole


@pytest.mark.parametrize("durable", [False, True])
def test_a_file_is_replaced_only_when_all_of_it_is_written(tmp_path: Path, durable: bool) -> None:
    path = tmp_path / "value.txt"
    write_text_whole(path, "old", durable=durable)
    with pytest.raises(ValueError), write_whole(path, durable=durable) as file:
        file.write(b"ne")
        raise ValueError
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
    write_text_whole(path, "new", durable=durable)
    assert path.read_text() == "new" and list(tmp_path.iterdir()) == [path]


def _die_while_writing(path: Path) -> None:
    with write_whole(path, durable=True) as file:
        file.write(b"half")
        file.flush()
        os.kill(os.getpid(), signal.SIGKILL)


def test_what_a_killed_writer_left_is_removed_by_the_next(tmp_path: Path) -> None:
    path = tmp_path / "value.txt"
    writer = multiprocessing.get_context("fork").Process(target=_die_while_writing, args=(path,))
    writer.start()
    writer.join()
    [left] = tmp_path.iterdir()
    assert left.name.endswith(".partial")
    write_text_whole(path, "whole", durable=True)
    assert path.read_text() == "whole" and list(tmp_path.iterdir()) == [path]


SIZE = 1 << 20


def _write_often(path: Path, byte: int) -> None:
    for _ in range(100):
        with write_whole(path, durable=False) as file:
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


def test_threads_that_write_the_same_file_do_not_share_its_partial(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(_write_often, [path] * 4, range(4)))
    assert len(set(path.read_bytes())) == 1
    assert list(tmp_path.iterdir()) == [path]
