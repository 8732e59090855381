"""What ends a data worker, or takes its files away, is one line that says so, and a worker ends with its trainer."""

import dataclasses
import errno
import multiprocessing
import os
import shutil
import signal
import time
from contextlib import closing
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import psutil
import pytest

from data import workers
from data.config import DataConfig, DataKind
from data.errors import DataError
from data.stream import BatchStream, build_stream

SHAPE = {"sequence_length": 64, "global_batch_size": 16}


@pytest.fixture
def tokens(tmp_path: Path) -> DataConfig:
    """Two token files, of which each batch has rows."""
    names = ["a.npy", "b.npy"]
    for name in names:
        np.random.default_rng(0).integers(0, 50, 1_000_000, dtype="<u4").tofile(tmp_path / name)
    (tmp_path / "files.txt").write_text("\n".join(names))
    return DataConfig(DataKind.tokens, root=str(tmp_path), file_list=str(tmp_path / "files.txt"), eos_token_id=0)


def read_until_it_fails(stream: BatchStream) -> str:
    """The message, of one line, of the DataError that ends the stream."""
    with pytest.raises(DataError) as error:
        for _ in range(10_000):
            stream.next_batch()
    assert "\n" not in str(error.value)
    return str(error.value)


def start_workers(config: DataConfig) -> tuple[BatchStream, list[psutil.Process]]:
    """A stream that has read its first batch, and its two workers in order."""
    before = set(psutil.Process().children())
    stream = build_stream(dataclasses.replace(config, num_workers=2), **SHAPE)
    stream.next_batch()
    return stream, sorted(set(psutil.Process().children()) - before, key=lambda process: process.pid)


def has_ended(process: int) -> bool:
    try:
        return psutil.Process(process).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_a_killed_worker_is_named_where_its_rows_are_missed_and_nowhere_else(tokens: DataConfig) -> None:
    stream, workers = start_workers(tokens)
    with closing(stream):
        workers[1].kill()
        while not has_ended(workers[1].pid):
            pass  # whatever the trainer does meanwhile is not disturbed
        message = read_until_it_fails(stream)
        assert message.startswith(f"data worker 1 of 2 (process {workers[1].pid}) was ended by SIGKILL")


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_token_file_that_is_truncated_while_it_is_read_is_named(tokens: DataConfig, num_workers: int) -> None:
    with closing(build_stream(dataclasses.replace(tokens, num_workers=num_workers), **SHAPE)) as stream:
        stream.next_batch()
        os.truncate(Path(tokens.root) / "b.npy", 100)
        message = read_until_it_fails(stream)
        assert message == f"{tokens.root}/b.npy is truncated to 100 of 4,000,000 bytes; put it back as it was"


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_text_file_that_vanishes_is_named(config: DataConfig, tmp_path: Path, num_workers: int) -> None:
    root = shutil.copytree(config.root, tmp_path / "mix")
    config = dataclasses.replace(config, root=str(root), num_workers=num_workers, files_per_group=1)
    with closing(build_stream(config, **SHAPE)) as stream:
        stream.next_batch()
        shutil.rmtree(root / "web")
        assert f"{root}/web/" in read_until_it_fails(stream)


def test_a_worker_that_cannot_be_started_is_named_and_leaves_none(
    tokens: DataConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, fork, pids = set(psutil.Process().children()), os.fork, list[int]()

    def fork_once() -> int:
        if pids:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        pids.append(fork())
        return pids[0]

    with closing(build_stream(dataclasses.replace(tokens, num_workers=2), **SHAPE)) as stream:
        monkeypatch.setattr(os, "fork", fork_once)  # as the kernel does at a limit of processes, or without memory
        message = read_until_it_fails(stream)
    assert message.startswith("data worker 1 of 2 could not be started (Resource temporarily unavailable): raise ")
    assert pids and set(psutil.Process().children()) <= before


def _stop_workers_and_leave(config: DataConfig, workers: Connection) -> None:
    _, started = start_workers(config)
    for worker in started:
        worker.send_signal(signal.SIGSTOP)
    workers.send([worker.pid for worker in started])
    os._exit(70)


def test_workers_that_are_stopped_end_with_their_trainer(tokens: DataConfig) -> None:
    ours, theirs = multiprocessing.Pipe()
    trainer = multiprocessing.get_context("fork").Process(target=_stop_workers_and_leave, args=(tokens, theirs))
    trainer.start()
    workers = ours.recv()
    trainer.join()
    assert len(workers) == 2
    deadline = time.monotonic() + 600
    left = set(workers)
    try:
        while left := {worker for worker in left if not has_ended(worker)}:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        for worker in left:
            os.kill(worker, signal.SIGKILL)


def test_workers_end_with_a_process_that_leaves_its_stream_open(tokens: DataConfig) -> None:
    process = multiprocessing.get_context("fork").Process(target=start_workers, args=(tokens,))
    process.start()
    process.join(600)
    assert process.exitcode == 0


def test_a_worker_that_cannot_send_ends_and_is_named(tokens: DataConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object, **options: object) -> bytes:
        raise TypeError("cannot be sent")

    monkeypatch.setattr(workers.pickle, "dumps", fail)  # which the forked workers have, too
    with closing(build_stream(dataclasses.replace(tokens, num_workers=1), **SHAPE)) as stream:
        assert "data worker 0 of 1" in read_until_it_fails(stream)
