"""Every epoch of a source reads each document once, all streams together, however few documents there are."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import orjson
import pytest

from data.errors import DataError
from data.fetch.files import DataFile
from data.text.holdout import is_held_out
from data.text.ingest import FrameCache
from data.text.order import Source, permutation

PINNED = [7, 5, 0, 3, 1, 2, 4, 6]


def make_source(folder: Path, num_documents: list[int], *, num_streams: int, files_per_group: int = 2) -> Source:
    files = []
    for number, count in enumerate(num_documents):
        path = folder / f"{number}.jsonl"
        path.write_bytes(b"".join(orjson.dumps({"text": f"{number}/{i}"}) + b"\n" for i in range(count)))
        files.append(DataFile(path.name, path, path.stat().st_size))
    return Source("s", files, FrameCache(folder / "cache", 64, 0.0), 1, num_streams, files_per_group)


def read_epoch(source: Source, epoch: int, stream: int) -> list[str]:
    texts: list[str] = []
    for number in range(source.num_groups):
        unit = 0
        while (documents := source.documents(epoch, number, stream, unit)) is not None:
            texts += documents
            unit += 1
    return texts


@pytest.mark.parametrize("num_documents", [[500, 1, 0, 77, 300], [3], [1], [0, 0, 2]])
def test_an_epoch_reads_each_document_once(tmp_path: Path, num_documents: list[int]) -> None:
    source = make_source(tmp_path, num_documents, num_streams=8)
    source.check()
    expected = sorted(f"{number}/{i}" for number, count in enumerate(num_documents) for i in range(count))
    epochs = [[text for stream in range(8) for text in read_epoch(source, epoch, stream)] for epoch in range(3)]
    assert all(sorted(epoch) == expected for epoch in epochs)
    if len(expected) > 100:
        assert epochs[0] != epochs[1]


def test_held_out_documents_are_left_out_and_nothing_else_moves(tmp_path: Path) -> None:
    source = make_source(tmp_path, [500, 77, 300], num_streams=8)
    plain = [read_epoch(source, 0, stream) for stream in range(8)]
    source.held_out_share = 0.3
    for stream, texts in enumerate(plain):
        kept = [text for text in texts if not is_held_out(text, 0.3)]
        assert read_epoch(source, 0, stream) == kept
        assert len(kept) < len(texts)


def test_documents_of_one_frame_come_in_another_order_each_epoch(tmp_path: Path) -> None:
    source = make_source(tmp_path, [40], num_streams=1)
    source.cache = FrameCache(tmp_path / "wide", 10**6, 0.0)
    epochs = [read_epoch(source, epoch, 0) for epoch in range(2)]
    in_file = [f"0/{i}" for i in range(40)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == sorted(in_file)
    assert sum(after == f"0/{int(before[2:]) + 1}" for before, after in pairwise(epochs[0])) < 10
    assert epochs[0] != epochs[1]


def test_a_single_document_reaches_every_stream_in_time(tmp_path: Path) -> None:
    source = make_source(tmp_path, [1], num_streams=8)
    assert all(any(read_epoch(source, epoch, stream) for epoch in range(200)) for stream in range(8))


def test_streams_of_a_small_source_have_about_the_same_to_read(tmp_path: Path) -> None:
    source = make_source(tmp_path, [100, 100], num_streams=8)
    lengths = [len(read_epoch(source, 0, stream)) for stream in range(8)]
    assert min(lengths) > 0 and max(lengths) <= 2 * min(lengths)


def test_a_source_without_documents_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data\.sources\.s: its files hold no documents"):
        make_source(tmp_path, [0, 0, 0], num_streams=8).check()


def test_permutations_depend_on_the_key_alone_and_never_change() -> None:
    assert permutation(10, 42, "name", 0).tolist() == permutation(10, 42, "name", 0).tolist()
    assert sorted(permutation(1000, 1)) == list(range(1000))
    assert not np.array_equal(permutation(1000, 1), permutation(1000, 2))
    assert permutation(8, "pinned").tolist() == PINNED
