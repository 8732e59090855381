"""Rows of token files that are fetched one by one are those of the files on the disk, whatever the server does."""

import dataclasses
import logging
import multiprocessing
import os
import signal
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data.config import DataConfig, SourceConfig
from data.errors import DataError
from data.stream import build_stream
from data.tokens.files import TokenRows
from tests.data.fetch.server import (
    Fault,
    FileServer,
    html_page,
    other_start,
    reset_after,
    same_length_page,
    serving,
    status,
    whole_file,
    wrong_range,
)
from tests.data.reading import assert_same, end_threads, read_global
from tests.data.tokens.by_range import NAMES, ROW, asked_for, at

FAULTS: list[Fault] = [
    status(429, Retry_After="0"),
    status(500),
    status(503),
    html_page,
    same_length_page,
    other_start,
    wrong_range,
    reset_after(1000),
    whole_file,
]


@settings(max_examples=6, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(data=st.data())
def test_batches_are_those_of_local_files_on_any_topology_and_with_any_faults(
    data: st.DataObject, local: DataConfig, tmp_path_factory: pytest.TempPathFactory
) -> None:
    shape: dict[str, Any] = {
        "length": data.draw(st.integers(8, 6000)),
        "batch_size": data.draw(st.sampled_from([8, 16])),
    }
    local = dataclasses.replace(local, seed=data.draw(st.integers(0, 99)))
    expected, end = read_global(local, 8, **shape)
    faults = st.lists(st.sampled_from(FAULTS), max_size=4)
    with serving(Path(local.root)) as server:
        remote = at(local, server, tmp_path_factory.mktemp("cache"))
        read_global(remote, 0, **shape)  # the place is known to send ranges
        state, step = None, 0
        while step < 8:
            server.faults.update({name: data.draw(faults) for name in NAMES})
            num_steps = data.draw(st.integers(1, 8 - step))
            world_size, workers = data.draw(st.sampled_from([(1, 0), (2, 0), (4, 0), (1, 2), (8, 0)]))
            batches, state = read_global(
                remote, num_steps, world_size=world_size, num_workers=workers, state=state, **shape
            )
            assert_same(expected[step : step + num_steps], batches)
            step += num_steps
        assert state == end


def test_nothing_is_fetched_ahead_before_the_first_batch_is_taken(
    local: DataConfig, server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = (batch.tokens for batch in read_global(local, 2, length=4096, batch_size=8)[0])
    expected, expect = [], TokenRows.expect

    def spy(rows: TokenRows, numbers: np.ndarray) -> None:
        expected.append(len(numbers))
        expect(rows, numbers)

    monkeypatch.setattr(TokenRows, "expect", spy)
    with closing(build_stream(at(local, server, tmp_path), sequence_length=4096, global_batch_size=8)) as stream:
        np.testing.assert_array_equal(stream.next_batch().tokens, first)
        assert not expected
        np.testing.assert_array_equal(stream.next_batch().tokens, second)
        assert sum(expected) > len(second)


def test_what_has_been_read_is_never_read_again(local: DataConfig, server: FileServer, tmp_path: Path) -> None:
    remote = at(local, server, tmp_path)
    shape: dict[str, Any] = {"length": 4096, "batch_size": 8}
    expected, _ = read_global(local, 15, **shape)  # two epochs
    start, state = read_global(remote, 3, **shape)
    end_threads()
    rest, _ = read_global(remote, 12, state=state, **shape)
    assert_same(expected, start + rest)
    assert set(asked_for(server).values()) == {1}
    server.folder = tmp_path / "nothing is there any more"
    assert_same(expected, read_global(remote, 15, num_workers=2, world_size=2, **shape)[0])


def _read_for_ever(config: DataConfig, num_read: Any) -> None:
    with closing(build_stream(config, sequence_length=ROW, global_batch_size=4)) as stream:
        while True:
            stream.next_batch()
            num_read.value += 1


def test_a_kill_loses_no_row_that_was_kept_and_keeps_no_other(
    local: DataConfig, server: FileServer, tmp_path: Path
) -> None:
    remote = at(local, server, tmp_path)
    context = multiprocessing.get_context("fork")
    num_read = context.Value("i", 0)
    process = context.Process(target=_read_for_ever, args=(remote, num_read))
    process.start()
    while not num_read.value and process.is_alive():
        pass
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert_same(read_global(local, 30, length=ROW)[0], read_global(remote, 30, length=ROW)[0])
    again = [count for count in asked_for(server).values() if count > 1]
    assert len(again) <= 32 * 64  # those that were on their way


@pytest.mark.parametrize("listed", [["ETag", "Last-Modified"], ["Last-Modified"], None])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_file_that_changes_on_its_server_ends_the_stream_in_one_line(
    local: DataConfig, tmp_path: Path, num_workers: int, listed: list[str] | None
) -> None:
    served = tmp_path / "served"
    for name in NAMES:
        (served / name).parent.mkdir(parents=True, exist_ok=True)
        (served / name).write_bytes((Path(local.root) / name).read_bytes())
    with serving(served) as server:
        server.listed_marks = listed  # ranges may come without an ETag
        server.marks = ["ETag", "Last-Modified"] if listed is None else ["Last-Modified"]
        remote = dataclasses.replace(at(local, server, tmp_path / "cache"), num_workers=num_workers)
        build_stream(remote, sequence_length=ROW, global_batch_size=16)  # sizes and marks are kept
        changed = (served / NAMES[2]).read_bytes()
        (served / NAMES[2]).write_bytes(changed[::-1])
        message = r"part-2\.npy has changed on the server since it was listed"
        stream = build_stream(remote, sequence_length=ROW, global_batch_size=16)
        with closing(stream), pytest.raises(DataError, match=message) as error:
            for _ in range(20):
                stream.next_batch()
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("without", ["ranges", "marks", "marks in common"])
def test_a_server_that_cannot_send_rows_safely_sends_whole_files_and_this_is_said(
    local: DataConfig, server: FileServer, tmp_path: Path, caplog: pytest.LogCaptureFixture, without: str
) -> None:
    if without == "marks":
        server.marks = []
    elif without == "marks in common":
        server.marks, server.listed_marks = ["Last-Modified"], ["ETag"]
    else:
        server.faults = {name: [whole_file] * 3 for name in NAMES}
    remote = at(local, server, tmp_path)
    with caplog.at_level(logging.INFO, "data"):
        batches, _ = read_global(remote, 6, length=ROW)
    assert_same(read_global(local, 6, length=ROW)[0], batches)
    said = [record.getMessage() for record in caplog.records if "data.fetch" in record.getMessage()]
    reason = "sends whole files" if without == "ranges" else "gives neither ETags nor dates"
    assert len(said) == 1 and said[0].startswith(f"data.fetch=whole is used: {server.url} {reason}")
    assert all((tmp_path / name).is_file() for name in NAMES)


def test_a_server_that_stops_to_give_marks_ends_the_stream_in_one_line(
    local: DataConfig, server: FileServer, tmp_path: Path
) -> None:
    remote = at(local, server, tmp_path)
    build_stream(remote, sequence_length=ROW, global_batch_size=16)
    server.marks = []
    with pytest.raises(DataError, match=r"neither ETags nor dates with ranges, .*; set data\.fetch=whole"):
        read_global(remote, 1, length=ROW)


def test_several_sources_with_weights_give_the_rows_of_local_files(
    local: DataConfig, server: FileServer, tmp_path: Path
) -> None:
    sources = {}
    for name, weight in (("source0", 3.0), ("source1", 1.0)):
        listed = tmp_path / f"{name}.txt"
        listed.write_text("\n".join(file for file in NAMES if name in file))
        sources[name] = SourceConfig(file_list=str(listed), weight=weight)
    local = dataclasses.replace(local, file_list=None, sources=sources)
    expected, _ = read_global(local, 20, length=ROW)
    batches, _ = read_global(at(local, server, tmp_path), 20, length=ROW)
    assert_same(expected, batches)
    assert list(tmp_path.rglob("*.rows")) and not list(tmp_path.rglob("*.npy"))


def test_a_server_that_is_down_is_one_line_and_one_warning_at_a_time(
    local: DataConfig, server: FileServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    remote = at(local, server, tmp_path)
    build_stream(remote, sequence_length=ROW, global_batch_size=16)
    server.faults = {name: [status(503)] * 1000 for name in NAMES}
    with pytest.raises(DataError, match=r"answered 503 .* 7 times in a row") as error:
        read_global(remote, 1, length=ROW)
    assert "\n" not in str(error.value)
    assert all("trying again" in record.getMessage() for record in caplog.records)
