"""Ingest keeps every good record, counts every bad one, and leaves whole files or none, whoever is killed meanwhile."""

import io
import logging
import multiprocessing
import os
import threading
import time
import tracemalloc
from pathlib import Path

import numpy as np
import orjson
import pytest

from common.files import STALE_SECONDS
from data.errors import DataError
from data.fetch.files import DataFile, find_files, read_manifest
from data.text.frames import FrameWriter
from data.text.ingest import FrameCache


def write_records(path: Path, lines: list[bytes]) -> DataFile:
    path.write_bytes(b"\n".join(lines) + b"\n")
    return DataFile(path.name, path, path.stat().st_size)


def record(text: object) -> bytes:
    return orjson.dumps({"id": "x", "text": text, "metadata": {"any": [1, None]}})


def texts_of(cache: FrameCache, file: DataFile) -> list[str]:
    (frames,) = cache.open([file])
    return [text for frame in range(len(frames.num_documents)) for text in frames.read_frame(frame)]


NUM_LARGE = 400  # of 4,000 characters
BAD = [
    b'{"text": "cut',
    b"\xff\xfe",
    b'{"text": "\\ud800"}',
    b'{"id": 1}',
    b'{"text": null}',
    b'{"text": 3}',
    b'"text"',
]


def test_good_records_come_back_and_bad_ones_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    good = [f"text {number} é 漢" * (number % 50 + 1) for number in range(3000)]
    lines = [record(text) for text in good]
    for number, line in enumerate([*BAD, record("  \n"), b"", b"  "]):
        lines.insert(number * 100, line)
    file = write_records(tmp_path / "mixed.jsonl", lines)
    cache = FrameCache(tmp_path / "cache", 20_000, max_bad_share=0.01)
    with caplog.at_level(logging.WARNING):
        assert texts_of(cache, file) == good
    (frames,) = cache.open([file])
    assert (frames.counts.bad_json, frames.counts.bad_text, frames.counts.empty) == (3, 4, 1)
    assert "skipped 7 of 3008 records (3 bad JSON or UTF-8, 4 without text)" in caplog.text
    assert len(frames.num_documents) > 50
    assert frames.read_frame(1, 2, 3) == frames.read_frame(1)[2::3]


def test_a_long_document_is_held_once_more_while_it_is_kept() -> None:
    document, size = "some words " * 400_000, 11 * 400_000
    tracemalloc.start()
    try:
        writer = FrameWriter(io.BytesIO(), 1 << 18)
        writer.add(document)
        assert size < tracemalloc.get_traced_memory()[1] < 1.5 * size
    finally:
        tracemalloc.stop()


def test_too_many_bad_records_refuse_the_file_until_the_limit_is_raised(tmp_path: Path) -> None:
    file = write_records(tmp_path / "bad.jsonl", [record("fine")] * 99 + BAD[:1])
    for _ in range(2):
        with pytest.raises(DataError, match=r"bad\.jsonl: 1 of 100 records .* data\.max_bad_share = 0\.001"):
            FrameCache(tmp_path / "cache", 1000, 0.001).open([file])
    assert len(texts_of(FrameCache(tmp_path / "cache", 1000, 0.01), file)) == 99


def test_a_plain_file_that_ends_within_a_line_is_truncated_however_many_lines_it_has(tmp_path: Path) -> None:
    file = write_records(tmp_path / "cut.jsonl", [record(f"{n}") for n in range(2000)])
    file.path.write_bytes(file.path.read_bytes()[:-10])
    truncated = DataFile(file.name, file.path, file.path.stat().st_size)
    with pytest.raises(DataError, match=r"cut\.jsonl is truncated: it ends within a line"):
        FrameCache(tmp_path / "cache", 4096, 0.5).open([truncated])
    whole = file.path.with_name("whole.jsonl")
    whole.write_bytes(b"\n".join(record(f"{n}") for n in range(10)))  # the last line is whole, and has no newline
    assert len(texts_of(FrameCache(tmp_path / "cache", 4096, 0.0), DataFile("w", whole, whole.stat().st_size))) == 10


def test_a_byte_order_mark_costs_no_document(tmp_path: Path) -> None:
    file = write_records(tmp_path / "bom.jsonl", [b"\xef\xbb\xbf" + record("first"), record("second")])
    assert texts_of(FrameCache(tmp_path / "cache", 4096, 0.0), file) == ["first", "second"]


def test_a_changed_file_is_ingested_again(tmp_path: Path) -> None:
    for text in ("before", "after!"):
        file = write_records(tmp_path / "file.jsonl", [record(text)])
        os.utime(file.path, ns=(0, hash(text) % 10**9))
        assert texts_of(FrameCache(tmp_path / "cache", 1000, 0.0), file) == [text]


def test_a_damaged_cache_file_is_named(tmp_path: Path) -> None:
    file = write_records(tmp_path / "file.jsonl", [record("text " * 100)] * 100)
    cache = FrameCache(tmp_path / "cache", 1000, 0.0)
    path = cache.path_of(file)
    texts_of(cache, file)
    whole = path.read_bytes()
    path.write_bytes(whole[:20] + bytes([whole[20] ^ 1]) + whole[21:])
    with pytest.raises(DataError, match="is damaged; delete it"):
        texts_of(FrameCache(tmp_path / "cache", 1000, 0.0), file)
    path.write_bytes(whole[:-5])
    with pytest.raises(DataError, match="is damaged; delete it"):
        texts_of(FrameCache(tmp_path / "cache", 1000, 0.0), file)


def test_any_flipped_bit_of_a_cached_frame_is_found(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    file = write_records(tmp_path / "file.jsonl", [record("".join(map(chr, rng.integers(97, 123, 3000))))])
    cache = FrameCache(tmp_path / "cache", 1000, 0.0)
    (frames,) = cache.open([file])
    whole = frames.path.read_bytes()
    for byte in rng.integers(0, 1500, 50):
        frames.path.write_bytes(whole[:byte] + bytes([whole[byte] ^ (1 << int(rng.integers(8)))]) + whole[byte + 1 :])
        with pytest.raises(DataError, match="is damaged; delete it"):
            frames.read_frame(0)


def test_a_cache_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    file = write_records(tmp_path / "file.jsonl", [record("text")])
    with pytest.raises(DataError, match=r"set data\.cache_dir"):
        FrameCache(tmp_path / "file.jsonl" / "cache", 1000, 0.0).open([file])


def _ingest(folder: Path, files: list[DataFile], start: float, results: "multiprocessing.Queue[int]") -> None:
    time.sleep(max(0.0, start - time.time()))
    cache = FrameCache(folder, 4096, 0.0)
    results.put(sum(int(frames.num_documents.sum()) for frames in cache.open(files)))


def test_processes_that_ingest_at_once_all_get_everything(tmp_path: Path) -> None:
    files = [write_records(tmp_path / f"{n}.jsonl", [record(f"text {n} {i}") for i in range(20_000)]) for n in range(4)]
    results: multiprocessing.Queue[int] = multiprocessing.Queue()
    start = time.time() + 0.3
    arguments = (tmp_path / "cache", files, start, results)
    processes = [multiprocessing.Process(target=_ingest, args=arguments) for _ in range(3)]
    for process in processes:
        process.start()
    assert [results.get(timeout=600) for _ in processes] == [80_000] * 3
    for process in processes:
        process.join()
    assert len(list((tmp_path / "cache").glob("*.frames"))) == 4
    assert not list((tmp_path / "cache").glob(".*.partial"))


def _ingest_half(folder: Path, file: DataFile) -> None:
    add, texts = FrameWriter.add, list[str]()

    def add_and_wait(writer: FrameWriter, text: str) -> None:
        add(writer, text)
        texts.append(text)
        if len(texts) == NUM_LARGE // 2:
            threading.Event().wait()  # until the process is killed

    FrameWriter.add = add_and_wait  # type: ignore[method-assign, assignment]
    FrameCache(folder, 4096, 0.0).open([file])


def test_a_killed_ingest_leaves_nothing_that_is_taken_for_a_file(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    texts = ["".join(map(chr, rng.integers(97, 123, 4000))) for _ in range(NUM_LARGE)]
    file = write_records(tmp_path / "large.jsonl", [record(text) for text in texts])
    folder = tmp_path / "cache"
    process = multiprocessing.Process(target=_ingest_half, args=(folder, file))
    process.start()
    while not any(partial.stat().st_size for partial in folder.glob(".*.partial")):
        assert process.is_alive()
        time.sleep(0.001)
    process.kill()
    process.join()
    (partial,) = folder.glob(".*.partial")
    assert not list(folder.glob("*.frames"))
    elsewhere = folder / f".{file.name}.frames.elsewhere-1-1.partial"  # of a process that may be alive
    elsewhere.touch()
    cache = FrameCache(folder, 4096, 0.0)
    assert not partial.exists() and elsewhere.exists()
    assert texts_of(cache, file) == texts
    os.utime(elsewhere, (time.time(), time.time() - 2 * STALE_SECONDS))
    FrameCache(folder, 4096, 0.0)
    assert not elsewhere.exists()


def test_files_are_compared_with_the_sizes_and_hashes_of_the_manifest(tmp_path: Path) -> None:
    file = write_records(tmp_path / "a.jsonl", [record("text")])
    entry = {"bytes": file.num_bytes, "sha256": "0" * 64}
    (tmp_path / "manifest.json").write_bytes(orjson.dumps({"files": {"a.jsonl": entry}}))
    (listed,) = find_files(tmp_path, ["*.jsonl"], "key", read_manifest(tmp_path))
    with pytest.raises(DataError, match="sha256"):
        FrameCache(tmp_path / "cache", 1000, 0.0).open([listed])
    file.path.write_bytes(b"longer" * 10)
    with pytest.raises(DataError, match=r"a\.jsonl has 60 bytes where manifest.json lists"):
        find_files(tmp_path, ["*.jsonl"], "key", read_manifest(tmp_path))


def test_patterns_find_each_file_once_in_order_and_nothing_hidden(tmp_path: Path) -> None:
    for name in ("b/2.jsonl", "a/1.jsonl", ".frames/3.jsonl", "b/.4.jsonl"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = find_files(tmp_path, ["**/*.jsonl", "a/*"], "key", {})
    assert [file.name for file in found] == ["a/1.jsonl", "b/2.jsonl"]
    for pattern in ("/etc/*", "", "none/*"):
        with pytest.raises(DataError, match="key: "):
            find_files(tmp_path, [pattern], "key", {})
