"""The published order, against vectors computed from the published code, and the errors of missing or foreign files."""

import hashlib
from pathlib import Path

import numpy as np
import pytest

from data.config import DataConfig, DataKind
from data.errors import DataError
from data.stream import build_stream
from data.tokens.published import kept_order, published_order
from tests.data.reading import read_global

LENGTH = 8


@pytest.mark.parametrize(
    ("num_rows", "epoch", "start", "sha256"),
    [
        (10, 0, [5, 6, 0, 7, 3, 2, 4, 9, 1, 8], None),
        (10, 1, [2, 8, 9, 5, 7, 1, 4, 6, 0, 3], None),
        (1000, 0, [978, 933, 859, 916, 127, 608, 856, 260], "7f19183d29590582"),
        (24543, 0, [5563, 24180, 12585, 5804], "ecfcd5a0d4c1063d"),
        (12_000_000, 0, [1285355, 2333178, 8678115], "1c640717882d66a1"),
    ],
)
def test_order_is_the_published_one_bit_for_bit(
    num_rows: int, epoch: int, start: list[int], sha256: str | None
) -> None:
    order = published_order(num_rows, 42, epoch)
    assert order[: len(start)].tolist() == start
    assert order.dtype == np.uint32
    assert sha256 is None or hashlib.sha256(order.tobytes()).hexdigest()[:16] == sha256


def write_files(folder: Path, sizes: list[int]) -> DataConfig:
    """Files whose tokens count up through all of them, each with a remainder to drop; listed in reverse order."""
    value = 1
    names = []
    for number, size in enumerate(sizes):
        name = f"mix/source{number % 2}/part-{number}.npy"
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        np.arange(value, value + size, dtype="<u4").tofile(folder / name)
        value += size
        names.append(name)
    (folder / "files.txt").write_text("\n".join(reversed(names)))
    return DataConfig(DataKind.tokens, root=str(folder), file_list=str(folder / "files.txt"), eos_token_id=0)


def test_the_order_kept_on_disk_is_the_published_one_even_if_it_was_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("data.tokens.published.MIN_KEPT_ROWS", 100)
    expected = published_order(1000, 42, 1)
    np.testing.assert_array_equal(kept_order(tmp_path / "cache", 1000, 42, 1), expected)
    (path,) = (tmp_path / "cache").iterdir()
    assert path.stat().st_size == 4 * 1001
    for damaged in (path.read_bytes()[:-8], b"\x01" + path.read_bytes()[1:], b""):
        path.write_bytes(damaged)
        np.testing.assert_array_equal(kept_order(tmp_path / "cache", 1000, 42, 1), expected)
    kept = path.stat().st_mtime_ns
    np.testing.assert_array_equal(kept_order(tmp_path / "cache", 1000, 42, 1), expected)
    assert path.stat().st_mtime_ns == kept
    np.testing.assert_array_equal(kept_order(path / "no folder", 1000, 42, 1), expected)


def test_rows_are_cut_per_file_in_listed_order_and_shuffled_again_each_epoch(tmp_path: Path) -> None:
    sizes = [35, 21, 50]
    config = write_files(tmp_path, sizes)
    firsts = np.cumsum([1, *sizes])
    rows = [firsts[file] + LENGTH * row for file in (2, 1, 0) for row in range(sizes[file] // LENGTH)]  # 6 + 2 + 4 rows
    expected = [rows[index] for epoch in range(3) for index in published_order(12, 42, epoch)[:10]]  # 2 steps of 5
    batches, state = read_global(config, 6, length=LENGTH, batch_size=5)
    tokens = np.concatenate([batch.tokens for batch in batches])
    np.testing.assert_array_equal(tokens, np.array(expected)[:, None] + np.arange(LENGTH))
    assert state["streams"] == {"rows": [2, 10]}
    file_of_row = np.searchsorted(firsts, tokens[:, 0], side="right") - 1
    names = build_stream(config, sequence_length=LENGTH, global_batch_size=5).source_names
    assert [names[index] for batch in batches for index in batch.sources] == [
        f"source{file % 2}" for file in file_of_row
    ]


def test_missing_files_are_counted_in_one_line(tmp_path: Path) -> None:
    config = write_files(tmp_path, [80, 80, 80])
    (tmp_path / "mix/source1/part-1.npy").unlink()
    (tmp_path / "mix/source0/part-0.npy").unlink()
    with pytest.raises(DataError, match=r"2 of 3 files are missing below .*, the first is mix/source1/part-1.npy"):
        build_stream(config, sequence_length=LENGTH, global_batch_size=5)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"\x93NUMPY\x01\x00" + bytes(400), "numpy header"), (bytes(403), "is truncated"), (bytes(32), "not one batch")],
)
def test_files_that_hold_no_tokens_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    config = write_files(tmp_path, [80])
    (tmp_path / "mix/source0/part-0.npy").write_bytes(content)
    with pytest.raises(DataError, match=message):
        build_stream(config, sequence_length=LENGTH, global_batch_size=5)
