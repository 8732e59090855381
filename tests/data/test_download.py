"""A file arrives whole and verified or not at all, whatever server, disk and other processes do meanwhile."""

import hashlib
import multiprocessing
import os
import resource
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from data import retry
from data.download import download
from data.errors import DataError
from data.files import DataFile
from data.web import WebFolder
from tests.data.server import (
    FileServer,
    html_page,
    other_start,
    reset_after,
    serving,
    slowly,
    status,
    whole_file,
    wrong_range,
)

CONTENT = np.random.default_rng(0).bytes(3_000_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
NAME = "folder/a file.zst"


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "FIRST_PAUSE", 0.001)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[FileServer]:
    (tmp_path / "remote/folder").mkdir(parents=True)
    (tmp_path / "remote" / NAME).write_bytes(CONTENT)
    with serving(tmp_path / "remote") as server:
        yield server


def remote_file(url: str, folder: Path, sha256: str | None = SHA256, num_bytes: int = len(CONTENT)) -> DataFile:
    return DataFile(NAME, folder / "cache" / NAME, num_bytes, sha256, None, WebFolder(url))


def left_over(file: DataFile) -> list[str]:
    return sorted(path.name for path in file.path.parent.iterdir() if not path.name.endswith(".lock"))


@pytest.mark.parametrize(
    "faults",
    [
        [],
        [status(500), status(503), status(502)],
        [status(429, Retry_After="0"), status(429)],
        [html_page],
        [whole_file],
        [wrong_range, other_start],
        [reset_after(1_200_000), reset_after(700_000), whole_file],
        [reset_after(400_000)] * 7,
    ],
)
def test_a_file_arrives_whole_whatever_goes_wrong_on_the_way(tmp_path: Path, server: FileServer, faults: list) -> None:
    file = remote_file(server.url, tmp_path, sha256=None)  # no hash to fall back on
    server.faults[NAME] = list(faults)
    pieces: list[int] = []
    assert download(file, report=pieces.append)
    assert file.path.read_bytes() == CONTENT
    assert left_over(file) == ["a file.zst"]
    assert not server.faults[NAME]
    num_requests = len(server.seen)
    assert download(file) and len(server.seen) == num_requests


def test_a_broken_download_goes_on_where_it_broke_off(tmp_path: Path, server: FileServer) -> None:
    server.faults[NAME] = [reset_after(2_500_000)]
    download(remote_file(server.url, tmp_path))
    first, second = server.starts(NAME)
    assert first == 0 and 1_000_000 < second <= 2_500_000


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (status(500), "answered 500 .*, 7 times in a row; try again later"),
        (status(404), "answered 404 .*; correct data.root"),
        (status(403), "answered 403 .*; correct data.root, .* or your access"),
        (html_page, r"36 bytes \(text/html\) where 3,000,000 bytes are expected"),
        (wrong_range, "bytes 0-999/3000000 .* where 3,000,000 bytes are expected"),
    ],
)
def test_what_does_not_pass_is_one_line_and_leaves_no_file(
    tmp_path: Path, server: FileServer, fault: object, message: str
) -> None:
    file = remote_file(server.url, tmp_path)
    server.faults[NAME] = [fault] * 8  # type: ignore[list-item]
    with pytest.raises(DataError, match=message) as error:
        download(file)
    assert "\n" not in str(error.value)
    assert not file.path.exists()


def test_other_content_of_the_same_size_is_refused(tmp_path: Path, server: FileServer) -> None:
    file = remote_file(server.url, tmp_path, sha256="0" * 64)
    with pytest.raises(DataError, match=r"a file\.zst does not have its listed sha256"):
        download(file)
    assert left_over(file) == []


def test_a_damaged_beginning_is_found_by_its_hash_and_fetched_again(tmp_path: Path, server: FileServer) -> None:
    file = remote_file(server.url, tmp_path)
    file.path.parent.mkdir(parents=True)
    part = file.path.with_name(f".{file.path.name}.part")
    for leftover in (bytes(1000), CONTENT + b"more", bytes(len(CONTENT))):
        part.write_bytes(leftover)
        download(file)
        assert file.path.read_bytes() == CONTENT
        file.path.unlink()


def test_a_file_that_grew_or_shrank_is_refused(tmp_path: Path, server: FileServer) -> None:
    for num_bytes in (len(CONTENT) - 1, len(CONTENT) + 1):
        with pytest.raises(DataError, match="expected"):
            download(remote_file(server.url, tmp_path, None, num_bytes))


def test_an_unreachable_host_is_named(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: nobody answers, and nobody else can take the port
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(DataError, match=rf"{url}/folder/a%20file\.zst cannot be reached"):
            download(remote_file(url, tmp_path))


def _download(file: DataFile, limit: int, results: "multiprocessing.Queue[str]") -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        download(file)
        results.put(hashlib.sha256(file.path.read_bytes()).hexdigest())
    except DataError as error:
        results.put(str(error))


def start_download(file: DataFile, limit: int = -1) -> "tuple[multiprocessing.Process, multiprocessing.Queue[str]]":
    results: multiprocessing.Queue[str] = multiprocessing.Queue()
    process = multiprocessing.Process(target=_download, args=(file, limit, results))
    process.start()
    return process, results


def test_a_full_disk_is_one_line_and_the_download_goes_on_once_there_is_room(
    tmp_path: Path, server: FileServer
) -> None:
    file = remote_file(server.url, tmp_path)
    process, results = start_download(file, limit=1_500_000)
    assert "make room, or set data.cache_dir to a larger disk" in results.get(timeout=30)
    process.join()
    assert not file.path.exists()
    download(file)
    assert file.path.read_bytes() == CONTENT
    assert server.starts(NAME)[-1] > 0


def test_two_processes_on_one_cache_fetch_a_file_once(tmp_path: Path, server: FileServer) -> None:
    server.faults[NAME] = [slowly(200_000, 0.01)]
    started = [start_download(remote_file(server.url, tmp_path)) for _ in range(2)]
    assert [results.get(timeout=30) for _, results in started] == [SHA256] * 2
    for process, _ in started:
        process.join()
    assert server.starts(NAME) == [0]


def test_a_killed_download_is_taken_up_by_the_next_process(tmp_path: Path, server: FileServer) -> None:
    server.faults[NAME] = [slowly(200_000, 0.05)]
    file = remote_file(server.url, tmp_path)
    part = file.path.with_name(f".{file.path.name}.part")
    process, _ = start_download(file)
    while not part.exists() or part.stat().st_size < 1_000_000:
        time.sleep(0.001)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert not file.path.exists()
    download(file)
    assert file.path.read_bytes() == CONTENT
    assert server.starts(NAME)[-1] >= 1_000_000
