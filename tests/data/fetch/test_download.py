"""A file arrives whole and verified or not at all, whatever server, disk and other processes do meanwhile."""

import dataclasses
import hashlib
import multiprocessing
import resource
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import orjson
import pytest

from data.errors import DataError
from data.fetch.download import download, download_all, stream_bytes
from data.fetch.files import DataFile
from data.fetch.web import WebFolder
from tests.data.fetch.server import (
    FileServer,
    Handler,
    etag_of,
    held_after,
    html_page,
    other_start,
    reset_after,
    same_length_page,
    serving,
    slowly,
    status,
    whole_file,
    wrong_range,
)
from tests.data.reading import end_threads

CONTENT = np.random.default_rng(0).bytes(3_000_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
NAME = "folder/a file.zst"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[FileServer]:
    (tmp_path / "remote/folder").mkdir(parents=True)
    (tmp_path / "remote" / NAME).write_bytes(CONTENT)
    with serving(tmp_path / "remote") as server:
        yield server


def remote_file(url: str, folder: Path, sha256: str | None = SHA256, num_bytes: int = len(CONTENT)) -> DataFile:
    return DataFile(NAME, folder / "cache" / NAME, num_bytes, sha256, None, WebFolder(url))


def part_of(file: DataFile) -> Path:
    return file.path.with_name(f".{file.path.name}.part")


def left_over(file: DataFile) -> list[str]:
    """All but the record of what was fetched, and the lock."""
    return sorted(path.name for path in file.path.parent.iterdir() if not path.name.endswith((".lock", ".json")))


FAULTS = [
    [],
    [status(500), status(503), status(502)],
    [status(429, Retry_After="0"), status(429)],
    [html_page],
    [same_length_page],
    [whole_file],
    [wrong_range, other_start],
    [reset_after(1_200_000), reset_after(700_000), whole_file],
    [reset_after(400_000)] * 7,
]


@pytest.mark.parametrize("faults", FAULTS)
def test_a_file_arrives_whole_whatever_goes_wrong_on_the_way(tmp_path: Path, server: FileServer, faults: list) -> None:
    file = remote_file(server.url, tmp_path, sha256=None)  # no hash to fall back on
    server.faults[NAME] = list(faults)
    pieces: list[int] = []
    assert download(file, report=pieces.append)
    assert sum(pieces) == len(CONTENT)
    assert file.path.read_bytes() == CONTENT
    assert left_over(file) == ["a file.zst"]
    assert not server.faults[NAME]
    num_requests = len(server.seen)
    assert download(file) and len(server.seen) == num_requests


@pytest.mark.parametrize("faults", FAULTS)
def test_a_file_that_is_not_stored_is_read_whole_too(tmp_path: Path, server: FileServer, faults: list) -> None:
    file = remote_file(server.url, tmp_path, sha256=None)
    server.faults[NAME] = list(faults)
    assert b"".join(stream_bytes(file)) == CONTENT
    assert not server.faults[NAME] and not file.path.parent.exists()


def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path: Path, server: FileServer) -> None:
    file = dataclasses.replace(remote_file(server.url, tmp_path, sha256=None), etag=etag_of(CONTENT))
    server.faults[NAME] = [reset_after(2_000_000)]
    server.after[NAME] = CONTENT[::-1]
    with pytest.raises(DataError, match="has changed on the server since it was listed"):
        list(stream_bytes(file))


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
        (same_length_page, r"3000000 bytes \(text/html"),
        (html_page, r"36 bytes \(Text/HTML\) where 3,000,000 bytes are expected"),
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


@pytest.mark.parametrize("strong", [True, False])
def test_a_file_that_changes_on_the_server_is_never_put_together_from_two_versions(
    tmp_path: Path, server: FileServer, strong: bool
) -> None:
    etag = etag_of(CONTENT) if strong else "W/" + etag_of(CONTENT)
    file = dataclasses.replace(remote_file(server.url, tmp_path, sha256=None), etag=etag)
    server.faults[NAME] = [reset_after(2_000_000)]
    server.after[NAME] = CONTENT[::-1]
    with pytest.raises(DataError, match=r"a%20file\.zst has changed on the server since it was listed; delete"):
        download(file)
    assert not file.path.exists()
    server.seen.clear()
    listed = file.origin.listing([NAME])[NAME] if file.origin else {}
    file = dataclasses.replace(file, etag=listed["etag"])
    pieces: list[int] = []
    download(file, report=pieces.append)
    assert file.path.read_bytes() == CONTENT[::-1]
    assert server.starts(NAME) == [0] and sum(pieces) == len(CONTENT)


def test_a_server_is_asked_for_the_rest_of_the_same_version_only(tmp_path: Path, server: FileServer) -> None:
    file = dataclasses.replace(remote_file(server.url, tmp_path, sha256=None), etag=etag_of(CONTENT))
    server.faults[NAME] = [reset_after(2_000_000)]
    download(file)
    assert file.path.read_bytes() == CONTENT
    assert server.starts(NAME)[-1] > 0 and server.conditions == [etag_of(CONTENT)] * 2


@pytest.mark.parametrize("marks", [["ETag"], ["Last-Modified"], []])
@pytest.mark.parametrize("is_listed", [True, False])
def test_a_file_of_no_known_hash_is_never_put_together_from_two_versions(
    tmp_path: Path, server: FileServer, marks: list[str], is_listed: bool
) -> None:
    server.marks = marks
    file = remote_file(server.url, tmp_path, sha256=None)
    if is_listed:  # else, as from a manifest.json, without a mark
        assert file.origin is not None
        file = dataclasses.replace(file, etag=file.origin.listing([NAME])[NAME]["etag"])
    server.faults[NAME] = [reset_after(2_000_000), status(500)]
    server.after[NAME] = CONTENT[::-1]
    if file.etag:
        with pytest.raises(DataError, match="has changed on the server since it was listed"):
            download(file)
    else:
        download(file)
        assert file.path.read_bytes() == CONTENT[::-1]
        assert server.starts(NAME)[-1] == 0


@pytest.mark.parametrize("stored", [True, False])
def test_a_server_whose_marks_are_not_those_that_were_listed_is_asked_for_the_whole(
    tmp_path: Path, server: FileServer, stored: bool
) -> None:
    server.marks, server.listed_marks = ["Last-Modified"], ["ETag"]
    file = remote_file(server.url, tmp_path, sha256=None)
    assert file.origin is not None
    file = dataclasses.replace(file, etag=file.origin.listing([NAME])[NAME]["etag"])
    server.faults[NAME] = [reset_after(2_000_000), status(500)]
    server.after[NAME] = CONTENT[::-1]
    if stored:
        download(file)
        assert file.path.read_bytes() == CONTENT[::-1]
    else:
        with pytest.raises(DataError, match="has changed on the server"):
            list(stream_bytes(file))


def test_a_server_is_asked_for_the_rest_of_the_version_of_a_date(tmp_path: Path, server: FileServer) -> None:
    server.marks = ["Last-Modified"]
    file = remote_file(server.url, tmp_path, sha256=None)
    server.faults[NAME] = [reset_after(2_000_000)]
    download(file)
    assert file.path.read_bytes() == CONTENT
    first, second = server.conditions
    assert first is None and second is not None and second.endswith("GMT") and server.starts(NAME)[-1] > 0


def test_a_part_of_unknown_version_is_fetched_again(tmp_path: Path, server: FileServer) -> None:
    server.marks = []
    file = remote_file(server.url, tmp_path, sha256=None)
    file.path.parent.mkdir(parents=True)
    part_of(file).write_bytes(bytes(1000))
    download(file)
    assert file.path.read_bytes() == CONTENT and server.starts(NAME) == [0]


@pytest.mark.parametrize("marks", [["ETag"], []])
def test_a_file_that_is_not_stored_and_changes_is_refused(tmp_path: Path, server: FileServer, marks: list[str]) -> None:
    server.marks = marks
    server.faults[NAME] = [reset_after(2_000_000)]
    server.after[NAME] = CONTENT[::-1]
    with pytest.raises(DataError, match="has changed on the server since it was listed"):
        list(stream_bytes(remote_file(server.url, tmp_path, sha256=None)))


def test_a_file_that_was_deleted_here_has_to_come_as_it_came_first(tmp_path: Path, server: FileServer) -> None:
    server.marks = []
    file = remote_file(server.url, tmp_path, sha256=None)
    download(file)
    file.path.unlink()
    (server.folder / NAME).write_bytes(CONTENT[::-1])
    with pytest.raises(DataError, match="is no longer the file that was fetched first, by its sha256; delete") as error:
        download(file)
    assert left_over(file) == [] and "\n" not in str(error.value)
    (server.folder / NAME).write_bytes(CONTENT)
    download(file)
    assert file.path.read_bytes() == CONTENT


def test_a_web_page_in_place_of_a_file_is_asked_past_and_named_if_it_stays(server: FileServer) -> None:
    server.heads[NAME] = [html_page] * 2
    assert WebFolder(server.url).listing([NAME])[NAME]["bytes"] == len(CONTENT)
    server.heads[NAME] = [html_page] * 7
    with pytest.raises(DataError, match=r"answers with a web page .* or log in to the network .* 7 times in a row"):
        WebFolder(server.url).listing([NAME])


def test_an_error_ends_the_wait_for_other_downloads(tmp_path: Path, server: FileServer) -> None:
    file = remote_file(server.url, tmp_path)
    released = threading.Event()
    answered: list[bool] = []

    def held(handler: Handler, content: bytes, start: int) -> None:
        answered.append(released.wait(600))
        handler.send_range(content, start)

    server.faults[NAME] = [held]
    with pytest.raises(DataError, match="answered 404"):
        download_all([file, dataclasses.replace(file, name="none", path=tmp_path / "none")])
    assert not answered
    released.set()
    end_threads("one of many")
    assert answered == [True]


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("http://", "No host supplied"),
        ("http://127.0.0.1:99999", "Failed to parse"),
        ("{server}/loop", "Exceeded 30 redirects"),
        ("{server}/ftp", "No connection adapters"),
    ],
)
def test_an_address_that_does_not_exist_is_not_tried_again(
    tmp_path: Path, server: FileServer, address: str, message: str, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(DataError, match=f"leads nowhere .*{message}.*; correct data.root") as error:
        WebFolder(address.format(server=server.url)).listing(["x"])
    assert "\n" not in str(error.value) and "trying again" not in caplog.text


@pytest.mark.parametrize("length", ["abc", "10, 10", "-1"])
def test_a_length_that_is_no_number_is_named(server: FileServer, length: str) -> None:
    server.lengths[NAME] = length
    with pytest.raises(DataError, match=f"has no stated length .*Content-Length: {length}"):
        WebFolder(server.url).listing([NAME])


@pytest.mark.parametrize("entry", [{"bytes": 1.5}, {"bytes": 1e20}, {"bytes": True}, {"bytes": 5, "sha256": 7}, "ab"])
def test_an_invalid_manifest_of_a_server_is_one_line(server: FileServer, entry: object) -> None:
    (server.folder / "manifest.json").write_bytes(orjson.dumps({"files": {"a": entry}}))
    with pytest.raises(DataError, match=r"has no valid manifest\.json \(.*\); name each file") as error:
        WebFolder(server.url).listing()
    assert "\n" not in str(error.value)


def test_a_manifest_that_breaks_off_is_asked_for_again(server: FileServer) -> None:
    content = orjson.dumps({"files": {"a": {"bytes": 5}}})
    (server.folder / "manifest.json").write_bytes(content)
    server.faults["manifest.json"] = [reset_after(10), status(500)]
    assert WebFolder(server.url).listing() == {"a": {"bytes": 5}}
    assert not server.faults["manifest.json"]


def test_a_damaged_beginning_is_found_by_its_hash_and_fetched_again(tmp_path: Path, server: FileServer) -> None:
    file = remote_file(server.url, tmp_path)
    file.path.parent.mkdir(parents=True)
    part = part_of(file)
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
        taken.bind(("127.0.0.1", 0))  # bound and not listening: no answer, and no other process can take the port
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


def test_a_full_disk_is_one_line_and_the_download_goes_on_once_there_is_space(
    tmp_path: Path, server: FileServer
) -> None:
    file = remote_file(server.url, tmp_path)
    process, results = start_download(file, limit=1_500_000)
    assert "free disk space, or set data.cache_dir to a larger disk" in results.get(timeout=600)
    process.join()
    assert not file.path.exists()
    download(file)
    assert file.path.read_bytes() == CONTENT
    assert server.starts(NAME)[-1] > 0


def test_two_processes_on_one_cache_fetch_a_file_once(tmp_path: Path, server: FileServer) -> None:
    server.faults[NAME] = [slowly(200_000, 0.01)]
    started = [start_download(remote_file(server.url, tmp_path)) for _ in range(2)]
    assert [results.get(timeout=600) for _, results in started] == [SHA256] * 2
    for process, _ in started:
        process.join()
    assert server.starts(NAME) == [0]


def test_a_killed_download_is_resumed_by_the_next_process(tmp_path: Path, server: FileServer) -> None:
    is_killed = threading.Event()
    server.faults[NAME] = [held_after(1_500_000, is_killed)]
    file = remote_file(server.url, tmp_path)
    part = part_of(file)
    process, _ = start_download(file)
    while not part.exists() or part.stat().st_size < 1_000_000:
        assert process.is_alive()
        time.sleep(0.001)
    process.kill()
    process.join()
    is_killed.set()
    assert not file.path.exists()
    download(file)
    assert file.path.read_bytes() == CONTENT
    assert server.starts(NAME)[-1] >= 1_000_000
