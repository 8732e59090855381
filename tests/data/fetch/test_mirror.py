"""A fetched folder holds what its manifest says, counts what it has already, and an interrupt ends a fetch."""

import dataclasses
import functools
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from data.errors import DataError
from data.fetch.download import hash_file
from data.fetch.files import DataFile, read_manifest
from data.fetch.mirror import mirror
from data.fetch.record import FetchRecord
from data.fetch.roots import Root
from data.fetch.web import WebFolder
from tests.data.fetch.server import FileServer, etag_of, held_after, serving_one, whole_file

CONTENT = np.random.default_rng(0).bytes(1_000_000)
Usage = namedtuple("Usage", ["total", "used", "free"])


@pytest.fixture
def server(tmp_path: Path) -> Iterator[FileServer]:
    with serving_one(tmp_path / "remote", CONTENT) as server:
        yield server


@pytest.fixture
def root(tmp_path: Path, server: FileServer) -> Root:
    (tmp_path / "to").mkdir()
    return Root(tmp_path / "to", tmp_path / "frames", WebFolder(server.url))


def file_of(root: Root, sha256: str | None = None) -> DataFile:
    return DataFile("a.npy", root.folder / "a.npy", len(CONTENT), sha256, None, root.remote)


def test_the_disk_has_to_hold_what_is_missing_and_no_more(root: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**7, 0, 300_000))
    with pytest.raises(DataError, match=r"has 0\.0 GB free, and 0\.0 GB are missing; free disk space"):
        mirror(root, [file_of(root)], lambda num_bytes: None)
    assert list(root.folder.iterdir()) == []
    (root.folder / ".a.npy.part").write_bytes(CONTENT[:900_000])
    mirror(root, [file_of(root)], lambda num_bytes: None)
    assert (root.folder / "a.npy").read_bytes() == CONTENT


@pytest.mark.parametrize("ranges", [True, False])
def test_progress_ends_at_the_size_whatever_was_there_before(root: Root, server: FileServer, ranges: bool) -> None:
    (root.folder / ".a.npy.part").write_bytes(CONTENT[:900_000])
    FetchRecord(file_of(root).version, etag_of(CONTENT)).write(root.folder / "a.npy")
    if not ranges:
        server.faults["a.npy"] = [whole_file]
    for _ in range(2):  # then it is there
        pieces: list[int] = []
        mirror(root, [file_of(root)], pieces.append)
        assert sum(pieces) == len(CONTENT)
    assert server.starts("a.npy") == [900_000]


def test_an_empty_file_is_listed_and_fetched_and_a_size_of_0_is_not_believed(root: Root, server: FileServer) -> None:
    (server.folder / "a.npy").write_bytes(b"")
    (server.folder / "b.npy").write_bytes(CONTENT)
    server.lengths["b.npy"] = "0"
    found = WebFolder(server.url).listing(["a.npy", "b.npy"])
    assert [entry["bytes"] for entry in found.values()] == [0, len(CONTENT)]
    mirror(root, [dataclasses.replace(file_of(root), num_bytes=0)], lambda num_bytes: None)
    assert (root.folder / "a.npy").read_bytes() == b""


def test_a_damaged_file_is_fetched_again(root: Root, server: FileServer) -> None:
    file = file_of(root)
    mirror(root, [file], lambda num_bytes: None)
    entry = read_manifest(root.folder)["a.npy"]
    for listed in (file, dataclasses.replace(file, sha256=entry["sha256"])):  # known from here, known from there
        file.path.write_bytes(b"<html>".ljust(len(CONTENT)))
        mirror(root, [listed], lambda num_bytes: None)
        assert file.path.read_bytes() == CONTENT
        assert read_manifest(root.folder) == {"a.npy": entry}
    assert server.starts("a.npy") == [0, 0, 0]
    (server.folder / "a.npy").write_bytes(CONTENT[::-1])
    file.path.write_bytes(bytes(len(CONTENT)))
    mirror(root, [file], lambda num_bytes: None)
    assert read_manifest(root.folder)["a.npy"]["sha256"] == hash_file(file.path) != entry["sha256"]


def test_fetches_of_other_files_into_one_folder_list_all_of_them(root: Root, server: FileServer) -> None:
    names = [f"{number}.npy" for number in range(4)]
    for name in names:
        (server.folder / name).write_bytes(CONTENT)
    all_arrived = threading.Barrier(len(names))

    def fetch(name: str) -> None:
        num_missing = len(CONTENT)

        def report(num_bytes: int) -> None:
            nonlocal num_missing
            num_missing -= num_bytes
            if not num_missing:
                all_arrived.wait(60)

        mirror(root, [dataclasses.replace(file_of(root), name=name, path=root.folder / name)], report)

    threads = [threading.Thread(target=fetch, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(read_manifest(root.folder)) == names


def test_an_interrupt_ends_a_fetch(root: Root, server: FileServer) -> None:
    has_ended = threading.Event()
    server.faults["a.npy"] = [held_after(1000, has_ended)]
    command = [sys.executable, "-m", "data", "fetch", server.url, "--to", str(root.folder), "--files", "a.npy"]
    listening = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # a suite in the background ignores it
    process = subprocess.Popen(command, preexec_fn=listening)
    while not (root.folder / ".a.npy.part").exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=600) == 130
    has_ended.set()
