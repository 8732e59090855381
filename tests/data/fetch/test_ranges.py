"""Ranges of files: what is asked for together, over how many connections, and what a server may do to a request."""

import dataclasses
import logging
import os
import resource
import signal
import threading
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import urllib3
from hypothesis import given
from hypothesis import strategies as st

from data.errors import DataError
from data.fetch import retry, web
from data.fetch.answer import Piece
from data.fetch.background import Later
from data.fetch.bucket import Bucket
from data.fetch.connections import MAX_CONNECTIONS, KnownRequests, session
from data.fetch.credentials import VARIABLE
from data.fetch.files import DataFile
from data.fetch.quota import CopyQuota
from data.fetch.ranges import MAX_GAP, MAX_RUN, Part, RangeReader, merge
from data.fetch.remote import Remote
from data.fetch.sparse import BLOCK_BYTES, SparseCopy
from data.fetch.web import WebFolder
from tests.data.fetch.server import HANG_SECONDS, FileServer, Handler, endless, serving_one, slowly, status
from tests.data.reading import end_threads

CONTENT = np.random.default_rng(0).bytes(200 * BLOCK_BYTES + 5)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[FileServer]:
    with serving_one(tmp_path / "remote", CONTENT) as server:
        yield server


def reader_of(remote: Remote, folder: Path, num_connections: int = 4, max_gib: float | None = None) -> RangeReader:
    etag = remote.listing(["a.npy"])["a.npy"]["etag"]
    file = DataFile("a.npy", folder / "cache/a.npy", len(CONTENT), None, etag, remote)
    return RangeReader([file], CopyQuota([file], folder / "cache", max_gib), num_connections)


def part(block: int, num_blocks: int = 1) -> Part:
    return Part(0, block * BLOCK_BYTES, (block + num_blocks) * BLOCK_BYTES)


@given(
    st.lists(
        st.builds(
            lambda file, start, size: Part(file, start, start + size),
            st.integers(0, 2),
            st.integers(0, 1 << 24),
            st.integers(1, 1 << 17),
        )
    )
)
def test_runs_hold_all_parts_in_the_order_of_need_and_little_else(parts: list[Part]) -> None:
    runs = list(merge(parts))
    need = []
    for run in runs:
        inside = [
            number
            for number, part in enumerate(parts)
            if part.file == run.file and part.blocks.start >= run.blocks.start and part.blocks.stop <= run.blocks.stop
        ]
        need.append(min(inside))
        wanted = {block for number in inside for block in parts[number].blocks}
        assert {run.blocks[0], run.blocks[-1]} <= wanted
        assert len(run.blocks) <= MAX_RUN or len(inside) == 1
        assert np.diff(sorted(wanted)).max(initial=1) <= MAX_GAP + 1
    assert need == sorted(need)
    found = {(run.file, block) for run in runs for block in run.blocks}
    assert found >= {(part.file, block) for part in parts for block in part.blocks}


def test_many_parts_go_over_few_connections_and_neighbours_are_one_request(server: FileServer, tmp_path: Path) -> None:
    reader = reader_of(WebFolder(server.url), tmp_path)
    parts = [part(block) for block in (199, 3, 0, 120, 4, 60, 90, 30, 150, 100)]
    reader.expect(parts)
    assert [bytes(content) for content in reader.read(parts)] == [CONTENT[part.start : part.stop] for part in parts]
    reader.close()
    gets = [extent for method, _, extent in server.seen if method == "GET"]
    assert len(gets) == 8 and "bytes=0-81919" in gets
    assert server.num_connections <= 4 + 1  # and that of the listing


def test_sizes_of_many_files_are_asked_for_over_few_connections(server: FileServer) -> None:
    WebFolder(server.url).listing(["a.npy"] * 100)
    assert server.num_connections <= MAX_CONNECTIONS


def test_the_first_rows_are_kept_once_they_have_been_read_and_not_asked_for_again(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_write, write = threading.Event(), SparseCopy.write

    def slow(copy: SparseCopy, first: int, content: bytes) -> None:
        assert may_write.wait(HANG_SECONDS)
        write(copy, first, content)

    monkeypatch.setattr(SparseCopy, "write", slow)
    reader = reader_of(WebFolder(server.url), tmp_path)
    first = [part(3), part(120, 2)]
    for _ in range(2):  # before anything is on the disk
        assert [bytes(content) for content in reader.read(first)] == [CONTENT[at.start : at.stop] for at in first]
    may_write.set()
    assert bytes(reader.read([part(119, 4)])[0]) == CONTENT[119 * BLOCK_BYTES : 123 * BLOCK_BYTES]
    reader.close()
    server.faults["a.npy"] = [status(404)] * 9
    assert [bytes(content) for content in reader.read(first)] == [CONTENT[at.start : at.stop] for at in first]
    gets = sorted(extent for method, _, extent in server.seen if method == "GET" and extent)
    assert gets == sorted(
        f"bytes={start * BLOCK_BYTES}-{stop * BLOCK_BYTES - 1}"
        for start, stop in [(3, 4), (120, 122), (119, 120), (122, 123)]
    )
    reader.close()


@pytest.mark.parametrize("is_whole", [False, True])
def test_a_reader_is_closed_once_the_first_rows_are_on_the_disk(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_whole: bool
) -> None:
    is_closing, create, finish = threading.Event(), SparseCopy.create, Later.finish

    def create_late(copy: SparseCopy) -> None:
        assert is_closing.wait(HANG_SECONDS)
        create(copy)

    def close(later: Later) -> None:
        is_closing.set()
        finish(later)

    monkeypatch.setattr(SparseCopy, "create", create_late)
    monkeypatch.setattr(Later, "finish", close)
    reader = reader_of(WebFolder(server.url), tmp_path)
    copy = SparseCopy(reader.files[0])
    if is_whole:  # a fetch beside the run ends before the rows are on the disk
        begin = reader._later.begin
        copy.file.path.parent.mkdir()

        def fetch_whole() -> None:  # once: while it is written again, it is not whole
            if not copy.file.path.exists():
                copy.file.path.write_bytes(CONTENT)
            begin()

        monkeypatch.setattr(reader._later, "begin", fetch_whole)
    reader.read([part(3), part(120)])
    reader.close()
    assert copy.exists() != is_whole
    assert is_whole or copy.read(range(3, 4))[1] + copy.read(range(120, 121))[1] == [True, True]


def test_a_row_that_arrives_after_the_reader_was_closed_is_kept(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, closed, send = threading.Event(), threading.Event(), RangeReader._ask

    def slow(reader: RangeReader, copy: SparseCopy, start: int, stop: int) -> Piece:
        asked.set()
        assert closed.wait(HANG_SECONDS)
        return send(reader, copy, start, stop)

    monkeypatch.setattr(RangeReader, "_ask", slow)
    reader = reader_of(WebFolder(server.url), tmp_path)
    reader._begin_to_fetch([part(3)])
    assert asked.wait(HANG_SECONDS)
    reader.close()
    closed.set()
    end_threads()
    assert SparseCopy(reader.files[0]).read(range(3, 4)) == (CONTENT[3 * BLOCK_BYTES : 4 * BLOCK_BYTES], [True])


def test_a_process_that_was_forked_while_a_thread_held_the_quota_reads(server: FileServer, tmp_path: Path) -> None:
    reader = reader_of(WebFolder(server.url), tmp_path, max_gib=1.0)
    quota = reader._quota
    with quota.growing(5 * BLOCK_BYTES), quota._lock:
        child = os.fork()
        if not child:
            code = 1
            try:
                signal.alarm(int(HANG_SECONDS))
                content = bytes(reader.read([part(3)])[0])
                reader.close()  # waits for the thread that keeps the row
                is_kept = SparseCopy(reader.files[0]).read(range(3, 4)) == (content, [True])
                code = int(
                    not (is_kept and content == CONTENT[3 * BLOCK_BYTES : 4 * BLOCK_BYTES] and quota._growing == 0)
                )
            finally:
                os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert quota._growing == 0
    reader.close()


def test_a_stalled_answer_is_asked_for_again(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stalled, released, read_range = threading.Event(), threading.Event(), WebFolder.read_range
    monkeypatch.setattr(retry, "FIRST_PAUSE", 0.001)
    monkeypatch.setattr(web, "RANGE_TIMEOUTS", (HANG_SECONDS, 0.1))

    def stall(handler: Handler, content: bytes, start: int) -> None:
        stalled.set()
        released.wait(HANG_SECONDS)

    def read_and_be_patient(folder: WebFolder, *asked: Any) -> Piece:
        try:
            return read_range(folder, *asked)
        finally:
            assert stalled.wait(HANG_SECONDS)
            monkeypatch.setattr(web, "RANGE_TIMEOUTS", (HANG_SECONDS, HANG_SECONDS))  # for the next one

    monkeypatch.setattr(WebFolder, "read_range", read_and_be_patient)
    server.faults["a.npy"] = [stall]
    reader = reader_of(WebFolder(server.url), tmp_path)
    try:
        assert bytes(reader.read([part(7)])[0]) == CONTENT[7 * BLOCK_BYTES : 8 * BLOCK_BYTES]
    finally:
        released.set()
        reader.close()


def test_an_answer_of_a_byte_at_a_time_is_asked_for_again(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web, "SLOW_SECONDS", 1.0)
    server.faults["a.npy"] = [slowly(1, 0.1)]
    reader = reader_of(WebFolder(server.url), tmp_path)
    assert bytes(reader.read([part(7)])[0]) == CONTENT[7 * BLOCK_BYTES : 8 * BLOCK_BYTES]
    reader.close()
    assert server.starts("a.npy") == [7 * BLOCK_BYTES] * 2


def test_an_answer_without_an_end_is_given_up_and_asked_for_again(server: FileServer, tmp_path: Path) -> None:
    server.faults["a.npy"] = [endless]
    reader = reader_of(WebFolder(server.url), tmp_path)
    assert bytes(reader.read([part(7)])[0]) == CONTENT[7 * BLOCK_BYTES : 8 * BLOCK_BYTES]
    reader.close()
    assert 0 < server.num_endless < 64 << 20  # what fits between the two, rather than all


def test_a_redirection_is_followed_once_until_it_ends_and_gets_no_login(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    front = FileServer(server.folder)
    monkeypatch.setenv(VARIABLE, f"http://user:secret@127.0.0.1:{front.server_port}")
    valid = "signed-1"

    def redirect(handler: Handler, content: bytes, start: int) -> None:
        handler.send(302, b"", {"Location": f"http://localhost:{server.server_port}/a.npy?{valid}"})

    front.login = "user:secret"
    front.faults["a.npy"] = [redirect] * 2
    thread = threading.Thread(target=front.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        remote = WebFolder(front.url)
        for block in range(5):
            if block == 3:
                server.faults["a.npy"] = [status(403)]  # a signed address has a time limit
            start = block * BLOCK_BYTES
            piece = remote.read_range("a.npy", start, start + BLOCK_BYTES, len(CONTENT))
            assert piece.content == CONTENT[start : start + BLOCK_BYTES]
        assert len([name for method, name, _ in front.seen if method == "GET"]) == 2
        assert f"Basic {b64encode(b'user:secret').decode()}" not in server.logins
    finally:
        front.shutdown()
        thread.join()
        front.server_close()


def test_headers_for_one_host_do_not_go_to_another(server: FileServer) -> None:
    known = KnownRequests()
    for _ in range(2):
        url = f"{server.url}/a.npy"
        own = {"Authorization": "Bearer x"}
        with known.send("GET", url, own, {"Range": "bytes=0-9"}, (5.0, 5.0)) as response:
            assert response.read() == CONTENT[:10]
    assert server.logins == ["Bearer x"] * 2
    assert not session().cookies


def test_a_request_to_a_known_host_has_the_limits_of_the_first(
    server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits, urlopen = [], urllib3.HTTPConnectionPool.urlopen

    def spy(pool: urllib3.HTTPConnectionPool, *arguments: Any, timeout: urllib3.Timeout, **more: Any) -> Any:
        limits.append((timeout.connect_timeout, timeout.read_timeout))
        return urlopen(pool, *arguments, timeout=timeout, **more)  # type: ignore[misc]

    monkeypatch.setattr(urllib3.HTTPConnectionPool, "urlopen", spy)
    known = KnownRequests()
    for _ in range(2):
        with known.send("GET", f"{server.url}/a.npy", {}, {"Range": "bytes=0-9"}, (50.0, 70.0)) as response:
            assert response.read() == CONTENT[:10]
    assert limits == [(50.0, 70.0)] * 2


@pytest.mark.parametrize("change", ["size", "content"])
def test_a_bucket_sends_ranges_of_the_listed_version_only(tmp_path: Path, change: str) -> None:
    (tmp_path / "bucket").mkdir()
    path = tmp_path / "bucket/a.npy"
    path.write_bytes(CONTENT)
    reader = reader_of(Bucket(f"file://{tmp_path}/bucket"), tmp_path)
    assert bytes(reader.read([part(1)])[0]) == CONTENT[BLOCK_BYTES : 2 * BLOCK_BYTES]
    path.write_bytes(CONTENT[:-1] if change == "size" else CONTENT[::-1])
    with pytest.raises(DataError, match="has changed on the server since it was listed"):
        reader.read([part(50)])
    reader.close()


def test_what_becomes_a_whole_file_is_read_from_it(server: FileServer, tmp_path: Path) -> None:
    reader = reader_of(WebFolder(server.url), tmp_path)
    reader.read([part(0)])
    reader.close()
    (tmp_path / "cache/a.npy").write_bytes(CONTENT)
    (tmp_path / "cache/.a.npy.rows").unlink()
    server.folder = tmp_path / "nowhere"
    assert bytes(reader.read([part(199, 2)])[0][:BLOCK_BYTES]) == CONTENT[199 * BLOCK_BYTES : 200 * BLOCK_BYTES]
    reader.close()


def test_a_disk_that_cannot_be_written_to_is_one_line(server: FileServer, tmp_path: Path) -> None:
    reader = reader_of(WebFolder(server.url), tmp_path)
    reader.read([part(0)])
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50 * BLOCK_BYTES, limits[1]))
    try:
        with pytest.raises(
            DataError, match=r"cannot write in .*cache .*; free disk space, or set data.cache_dir"
        ) as error:
            reader.read([part(100)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        reader.close()
    assert "\n" not in str(error.value)
    (tmp_path / "other").mkdir()
    (tmp_path / "other/cache").write_text("a file where the folder belongs")
    reader = reader_of(WebFolder(server.url), tmp_path / "other")
    reader.read([part(0)])  # the first rows go to the disk once they have been read
    with pytest.raises(DataError, match=r"cannot write in .*cache .*; set data.cache_dir to a folder to write in"):
        reader.read([part(1)])
    reader.close()


def test_a_disk_that_is_full_at_the_first_rows_is_one_warning(
    server: FileServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    reader = reader_of(WebFolder(server.url), tmp_path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50 * BLOCK_BYTES, limits[1]))
    try:
        reader.read([part(block) for block in (3, 60, 120, 190)])
        reader.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    (warning,) = (record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING)
    assert warning.startswith("rows that were read are not kept: cannot write in ") and "\n" not in warning
    assert "(File too large); free disk space, or set data.cache_dir to a larger disk" in warning


def test_a_file_without_a_listed_mark_is_held_to_the_first_answer(server: FileServer, tmp_path: Path) -> None:
    reader = reader_of(WebFolder(server.url), tmp_path)
    reader.files = [dataclasses.replace(reader.files[0], etag=None)]
    reader = RangeReader(reader.files, CopyQuota(reader.files, tmp_path, None), 2)
    reader.read([part(0)])
    (server.folder / "a.npy").write_bytes(CONTENT[::-1])
    with pytest.raises(DataError, match="has changed on the server"):
        reader.read([part(1)])
    reader.close()
