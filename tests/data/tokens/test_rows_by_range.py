"""Rows of token files that are fetched one by one are those of the files on the disk, whatever the server does."""

import bisect
import contextlib
import dataclasses
import logging
import multiprocessing
import os
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data.config import DataConfig, DataKind, Fetch, SourceConfig
from data.errors import DataError
from data.fetch import quota, sparse
from data.fetch.mirror import mirror
from data.fetch.roots import open_root
from data.fetch.sparse import BLOCK_BYTES, VERSION_BYTES, SparseCopy
from data.stream import build_stream
from data.tokens import published
from data.tokens.files import TokenRows, list_token_files
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

NAMES = [f"mix/source{number % 2}/part-{number}.npy" for number in range(4)]
ROW = 1024  # tokens: four rows are a block
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


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> DataConfig:
    """Four token files, each a few dozen blocks and a rest."""
    folder = tmp_path_factory.mktemp("served")
    for number, name in enumerate(NAMES):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        np.random.default_rng(number).integers(0, 50, 60_000 + 999 * number, dtype="<u4").tofile(folder / name)
    (folder / "files.txt").write_text("\n".join(NAMES))
    return DataConfig(DataKind.tokens, root=str(folder), file_list=str(folder / "files.txt"), eos_token_id=0)


@pytest.fixture
def server(local: DataConfig) -> Iterator[FileServer]:
    with serving(Path(local.root)) as server:
        yield server


def at(local: DataConfig, server: FileServer, cache: Path) -> DataConfig:
    return dataclasses.replace(local, root=server.url, cache_dir=str(cache))


def asked_for(server: FileServer) -> Counter[tuple[str, int]]:
    """How often each block was asked for."""
    blocks: Counter[tuple[str, int]] = Counter()
    for method, name, extent in server.seen:
        if method == "GET" and extent:
            first, last = map(int, extent.removeprefix("bytes=").split("-"))
            blocks.update((name, block) for block in range(first // BLOCK_BYTES, last // BLOCK_BYTES + 1))
    return blocks


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


def damage_bytes(copy: SparseCopy) -> None:
    content = bytearray(copy.path.read_bytes())
    content[5000] ^= 1
    copy.path.write_bytes(content)


def damage_digest(copy: SparseCopy) -> None:
    content = bytearray(copy.digests.read_bytes())
    content[VERSION_BYTES] ^= 1
    copy.digests.write_bytes(content)


def lose_bytes(copy: SparseCopy) -> None:
    """As a power failure may: the digests were written, their blocks were not."""
    copy.empty()


def lose_all(copy: SparseCopy) -> None:
    copy.delete()


@pytest.mark.parametrize("damage", [damage_bytes, damage_digest, lose_bytes, lose_all])
def test_a_damaged_copy_is_fetched_again_where_it_is_damaged(
    local: DataConfig, server: FileServer, tmp_path: Path, damage: Callable[[SparseCopy], None]
) -> None:
    remote = at(local, server, tmp_path)
    expected, _ = read_global(remote, 14, length=ROW)
    (file, *_) = list_token_files(open_root(remote.root, str(tmp_path)), Path(str(remote.file_list)))
    server.seen.clear()
    damage(SparseCopy(file))
    assert_same(expected, read_global(remote, 14, length=ROW)[0])
    names = {name for name, _ in asked_for(server)}
    assert names == {NAMES[0]}
    if damage in (damage_bytes, damage_digest):
        assert asked_for(server) == {(NAMES[0], 0): 1}


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


def test_rows_that_were_dropped_have_to_come_as_they_came_first(
    local: DataConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = tmp_path / "served/mix.npy"
    served.parent.mkdir()
    served.write_bytes((Path(local.root) / NAMES[0]).read_bytes())
    (tmp_path / "files.txt").write_text("mix.npy")
    config = dataclasses.replace(local, file_list=str(tmp_path / "files.txt"))
    with serving(served.parent) as server:
        server.marks = ["ETag"]
        monkeypatch.setattr("tests.data.fetch.server.etag_of", lambda content: '"always the same"')
        remote = at(config, server, tmp_path / "cache")
        read_global(remote, 3, length=ROW)
        (file,) = list_token_files(open_root(remote.root, remote.cache_dir), tmp_path / "files.txt")
        SparseCopy(file).empty()
        read_global(remote, 3, length=ROW)
        SparseCopy(file).empty()
        np.fromfile(served, "<u4")[::-1].tofile(served)
        with pytest.raises(
            DataError, match=r"no longer the file whose rows were read first; delete .*\.mix\.npy\.digests"
        ):
            read_global(remote, 3, length=ROW)
        (tmp_path / "cache/.mix.npy.digests").unlink()
        config = dataclasses.replace(config, root=str(served.parent))
        assert_same(read_global(config, 3, length=ROW)[0], read_global(remote, 3, length=ROW)[0])


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


def test_a_bounded_cache_drops_rows_and_gives_the_same(local: DataConfig, server: FileServer, tmp_path: Path) -> None:
    bound = 24 * BLOCK_BYTES * 2
    remote = dataclasses.replace(at(local, server, tmp_path), max_cache_gib=bound / quota.GIB)
    expected, _ = read_global(local, 56, length=ROW, batch_size=4)
    with closing(build_stream(remote, sequence_length=ROW, global_batch_size=4)) as stream:
        for batch in expected:
            np.testing.assert_array_equal(stream.next_batch().tokens, batch.tokens)
            copies = sum(sparse.allocated(path) for path in tmp_path.rglob("*.rows"))
            assert copies <= bound
    assert set(asked_for(server).values()) != {1}


def test_a_bound_that_cannot_hold_a_few_steps_is_named(local: DataConfig, server: FileServer, tmp_path: Path) -> None:
    remote = dataclasses.replace(at(local, server, tmp_path), max_cache_gib=1e-4)
    with pytest.raises(DataError, match=r"data.max_cache_gib = 0.0001 cannot hold 16 steps, digests"):
        build_stream(remote, sequence_length=ROW, global_batch_size=16)


def test_a_run_that_could_start_within_a_bound_can_be_resumed(
    local: DataConfig, server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(published, "MIN_KEPT_ROWS", 1)
    server.marks = ["ETag"]
    shape: dict[str, Any] = {"sequence_length": ROW, "global_batch_size": 16}

    def starts(pages: int) -> bool:
        with contextlib.suppress(DataError), closing(build_stream(within(pages), **shape)):
            return True
        return False

    def within(pages: int) -> DataConfig:
        folder = tmp_path / str(pages)
        return dataclasses.replace(at(local, server, folder), max_cache_gib=pages * 4096 / quota.GIB)

    pages = 1 + bisect.bisect_left(range(1, 1 << 10), True, key=starts)  # the least
    config, folder, bound = within(pages), tmp_path / str(pages), pages * 4096
    shutil.rmtree(folder)
    stream = build_stream(config, **shape)
    for _ in range(56):  # four epochs
        stream.next_batch()
    stream.close()
    deadline = time.monotonic() + 60
    while not list(folder.glob("order-*-3.u32")) and time.monotonic() < deadline:
        time.sleep(0.01)  # a thread writes it
    assert len(list(folder.glob("order-*"))) == 1
    assert sum(sparse.allocated(path) for path in folder.rglob("*") if path.is_file()) <= bound
    with closing(build_stream(config, **shape)) as again:
        again.load_state_dict(stream.state_dict())
        again.next_batch()


def test_a_fetch_beside_a_running_job_fills_the_same_copy(
    local: DataConfig, server: FileServer, tmp_path: Path
) -> None:
    remote = at(local, server, tmp_path)
    expected, _ = read_global(local, 20, length=ROW)
    with closing(build_stream(remote, sequence_length=ROW, global_batch_size=16)) as stream:
        batches = [stream.next_batch()]
        end_threads("rows to the disk")
        root = open_root(remote.root, str(tmp_path))
        files = list_token_files(root, Path(str(remote.file_list)))
        arrived: list[int] = []
        mirror(root, files, arrived.append)
        assert sum(arrived) == sum(file.num_bytes for file in files)
        assert set(asked_for(server).values()) <= {1, 2}
        server.folder = tmp_path / "nothing is there any more"
        batches += [stream.next_batch() for _ in range(19)]
    assert_same(expected, batches)
    for name in NAMES:
        assert (tmp_path / name).read_bytes() == (Path(local.root) / name).read_bytes()
    assert not list(tmp_path.rglob("*.rows")) and not list(tmp_path.rglob("*.part"))


def test_whole_files_take_over_what_has_been_read_by_rows(
    local: DataConfig, server: FileServer, tmp_path: Path
) -> None:
    remote = at(local, server, tmp_path)
    expected, _ = read_global(remote, 14, length=ROW)
    server.seen.clear()
    assert_same(expected, read_global(dataclasses.replace(remote, fetch=Fetch.whole), 14, length=ROW)[0])
    assert sum(asked_for(server).values()) <= len(NAMES)  # the end of each, which no row has


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
