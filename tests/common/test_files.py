"""A file is written whole or not at all."""

import multiprocessing
import os
import signal
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
