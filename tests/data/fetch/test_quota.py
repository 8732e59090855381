"""Ranks may share a cache that is too small for all of them: it keeps to its bound, and no rank fails."""

import multiprocessing
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import orjson
import pytest
import zstandard

from data.errors import DataError
from data.fetch.files import DataFile
from data.fetch.locks import file_lock
from data.fetch.quota import GIB, CacheFullError, CacheQuota
from data.fetch.web import WebFolder
from data.text import ingest
from data.text.ingest import FrameCache
from tests.data.fetch.server import FileServer, serving

TEXTS = ["".join(map(chr, np.random.default_rng(n).integers(97, 123, 2000))) for n in range(50)]
CONTENT = b"".join(orjson.dumps({"text": text}) + b"\n" for text in TEXTS)
NUM_FILES = 6


@pytest.fixture
def server(tmp_path: Path) -> Iterator[FileServer]:
    (tmp_path / "remote").mkdir()
    for number in range(NUM_FILES):
        (tmp_path / f"remote/{number}.jsonl").write_bytes(CONTENT)
    with serving(tmp_path / "remote") as server:
        yield server


def remote_file(server: FileServer, folder: Path, number: int = 0) -> DataFile:
    name = f"{number}.jsonl"
    return DataFile(name, folder / name, len(CONTENT), None, None, WebFolder(server.url))


def texts_of(cache: FrameCache, file: DataFile) -> list[str]:
    (frames,) = cache.open([file])
    return [text for frame in range(len(frames.num_documents)) for text in frames.read_frame(frame)]


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_the_latest_two_sets_of_a_source_stay_and_ahead_of_need_three(tmp_path: Path) -> None:
    quota = CacheQuota(tmp_path, 4000 / GIB)
    paths = [tmp_path / f"{number}.frames" for number in range(4)]
    for path in paths:
        path.write_bytes(bytes(1000))
        quota.mark_in_use("source", [path])
    quota.reserve(1000, ahead=True)
    assert [path.exists() for path in paths] == [False, True, True, True]
    with pytest.raises(DataError, match=r"at once in .*, 4\.66e-06 GiB"):
        quota.reserve(2000, ahead=True)
    quota.reserve(2000)
    assert [path.exists() for path in paths] == [False, False, True, True]
    with pytest.raises(DataError, match="cannot hold what the order needs"):
        quota.reserve(3000)
    assert [path.exists() for path in paths] == [False, False, True, True]


def test_files_that_others_remove_meanwhile_are_no_error(tmp_path: Path) -> None:
    stopped = threading.Event()

    def make_and_remove(number: int) -> None:
        while not stopped.is_set():
            for name in range(20):
                (tmp_path / f"{number}-{name}").touch()
            for name in range(20):
                (tmp_path / f"{number}-{name}").unlink(missing_ok=True)

    threads = [threading.Thread(target=make_and_remove, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    try:
        quota = CacheQuota(tmp_path, 1.0)
        for _ in range(200):
            quota.reserve(1)
    finally:
        stopped.set()
        for thread in threads:
            thread.join()


def test_a_lock_that_is_held_is_not_evicted(tmp_path: Path) -> None:
    file = DataFile("file.jsonl", tmp_path / "file.jsonl", len(CONTENT))
    file.path.write_bytes(CONTENT)
    folder = tmp_path / "cache"
    texts_of(FrameCache(folder, 4096, 0.0, CacheQuota(folder, 1.0)), file)
    (lock,) = folder.glob("*.lock")
    with file_lock(lock):
        with pytest.raises(DataError):
            CacheQuota(folder, 1 / GIB).reserve(10)
        assert lock.exists() and not list(folder.glob("*.frames"))


def test_what_others_evict_before_it_is_used_is_made_again(
    tmp_path: Path, server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = remote_file(server, tmp_path / "cache")
    quota = CacheQuota(tmp_path / "cache", 1.0)
    cache = FrameCache(tmp_path / "cache/.frames", 4096, 0.0, quota)
    robbed = []

    def reserve(num_bytes: int, *, ahead: bool = False) -> None:  # called between fetching and ingesting, too
        for path in (file.path, cache.path_of(file)):
            if path.exists() and path not in robbed:
                robbed.append(path)
                path.unlink()

    monkeypatch.setattr(quota, "reserve", reserve)
    check = FrameCache._checked

    def check_late(cache: FrameCache, file: DataFile) -> object:
        reserve(0)
        return check(cache, file)

    monkeypatch.setattr(FrameCache, "_checked", check_late)
    assert texts_of(cache, file) == TEXTS
    assert robbed == [file.path, cache.path_of(file)]


class Clock:
    """In place of `time`: a pause takes no time, and may be the moment at which something happens."""

    def __init__(self) -> None:
        self.now = 0.0
        self.pauses: list[float] = []
        self.after_third_pause: Callable[[], None] = lambda: None

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.pauses.append(seconds)
        if len(self.pauses) == 3:
            self.after_third_pause()


def test_what_others_are_writing_is_waited_for(
    tmp_path: Path, server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = remote_file(server, tmp_path / "cache")
    cache = FrameCache(tmp_path / "cache/.frames", 4096, 0.0, CacheQuota(tmp_path / "cache", 3 * len(CONTENT) / GIB))
    cache.folder.mkdir(parents=True)
    foreign = cache.folder / ".x.frames.elsewhere-1-1.partial"
    foreign.write_bytes(bytes(2 * len(CONTENT)))
    clock = Clock()
    clock.after_third_pause = foreign.unlink
    monkeypatch.setattr(ingest, "time", clock)
    assert texts_of(cache, file) == TEXTS
    assert len(clock.pauses) == 3
    foreign.write_bytes(bytes(2 * len(CONTENT)))
    cache.path_of(file).unlink()
    clock = Clock()
    monkeypatch.setattr(ingest, "time", clock)
    with pytest.raises(CacheFullError, match="cannot hold what the order needs"):
        cache.open([file])
    assert ingest.CACHE_FULL_SECONDS < clock.now < ingest.CACHE_FULL_SECONDS + 1.0
    small = replace(cache, quota=CacheQuota(tmp_path / "cache", 0.9 * len(CONTENT) / GIB))
    clock = Clock()
    monkeypatch.setattr(ingest, "time", clock)
    with pytest.raises(DataError, match="cannot hold what the order needs"):
        small.open([file])
    assert not clock.pauses


def test_frames_that_outgrow_their_file_keep_to_the_bound(tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    file = DataFile("file.jsonl.zst", tmp_path / "file.jsonl.zst", 0)
    far = zstandard.ZstdCompressionParameters.from_level(9, window_log=24, enable_ldm=True)
    file.path.write_bytes(zstandard.ZstdCompressor(compression_params=far).compress(CONTENT * 20))
    file = replace(file, num_bytes=file.path.stat().st_size)
    bound, frame_bytes, largest = 4 * file.num_bytes, 4096, 0

    class Watched(CacheQuota):
        def reserve(self, num_bytes: int, *, ahead: bool = False) -> None:
            nonlocal largest
            largest = max(largest, size_of(folder))
            super().reserve(num_bytes, ahead=ahead)

    cache = FrameCache(folder, frame_bytes, 0.0, Watched(folder, bound / GIB))
    folder.mkdir()
    old = folder / "old.frames"
    old.write_bytes(bytes(2 * file.num_bytes))
    with pytest.raises(DataError, match="cannot hold what the order needs"):
        cache.open([file])
    assert not old.exists()
    assert 3 * file.num_bytes < largest <= bound + frame_bytes
    assert size_of(folder) == 0


def _read_in_turns(url: str, folder: Path, bound: float, rank: int, results: "multiprocessing.Queue[object]") -> None:
    try:
        cache = FrameCache(folder / ".frames", 4096, 0.0, CacheQuota(folder, bound / GIB))
        rng = np.random.default_rng(rank)
        for step in range(30):
            name = f"{step % NUM_FILES}.jsonl"
            file = DataFile(name, folder / name, len(CONTENT), None, None, WebFolder(url))
            (frames,) = cache.open([file], "source")
            with suppress(FileNotFoundError):  # data/text/order.py opens it again
                assert frames.read_frame(0)[0] == TEXTS[0]
            time.sleep(rng.uniform(0.0, 0.01))
        results.put("done")
    except BaseException as error:
        results.put(repr(error))


def test_ranks_that_share_a_small_cache_all_finish(tmp_path: Path, server: FileServer) -> None:
    results: multiprocessing.Queue[object] = multiprocessing.Queue()
    processes = [
        multiprocessing.Process(
            target=_read_in_turns, args=(server.url, tmp_path / "cache", 4.0 * len(CONTENT), rank, results)
        )
        for rank in range(4)
    ]
    for process in processes:
        process.start()
    assert [results.get(timeout=600) for _ in processes] == ["done"] * 4
    for process in processes:
        process.join()
