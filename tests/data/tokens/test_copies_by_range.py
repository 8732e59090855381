"""The copy on the disk of rows that are fetched one by one: checked, bounded, and taken over by whole files."""

import bisect
import contextlib
import dataclasses
import shutil
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data.config import DataConfig, Fetch
from data.errors import DataError
from data.fetch import quota, sparse
from data.fetch.mirror import mirror
from data.fetch.roots import open_root
from data.fetch.sparse import BLOCK_BYTES, VERSION_BYTES, SparseCopy
from data.stream import build_stream
from data.tokens import published
from data.tokens.files import list_token_files
from tests.data.fetch.server import (
    FileServer,
    serving,
)
from tests.data.reading import assert_same, end_threads, read_global
from tests.data.tokens.by_range import NAMES, ROW, asked_for, at


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
