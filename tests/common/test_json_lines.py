"""Lines are whole or absent, also on a full disk."""

import json
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from common.json_lines import JsonLines, read_json_lines


@contextmanager
def files_of_at_most(num_bytes: int) -> Iterator[None]:
    """What a full disk does to a file: a write stops in the middle of a line, and the next one fails."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def row(step: int) -> dict[str, float]:
    return {"step": step, "train/loss": 1 / (step + 1)}


def test_rows_wait_for_free_space_and_none_is_lost_or_truncated(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "metrics.jsonl"
    lines = JsonLines(path)
    for step in range(3):
        lines.append(row(step))
    with files_of_at_most(path.stat().st_size + 10):
        for step in range(3, 6):
            lines.append(row(step))
            assert path.read_bytes().endswith(b"}\n") and len(read_json_lines(path)) == 3
    lines.append(row(6))
    assert [json.loads(line) for line in path.read_text().splitlines()] == [row(step) for step in range(7)]
    [record] = caplog.records
    assert record.getMessage() == f"cannot write {path} (File too large): its lines wait in memory"


def test_a_line_truncated_by_a_kill_does_not_damage_the_next(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    JsonLines(path).append(row(1))
    with path.open("a") as file:
        file.write('{"step": 2, "tra')
    JsonLines(path).append(row(3))
    assert read_json_lines(path) == [row(1), row(3)]


def test_what_is_no_object_is_left_out_however_deep_it_is(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    JsonLines(path).append(row(1))
    with path.open("ab") as file:
        file.writelines([b"[" * 20_000, b"\n" + b'{"a":' * 20_000, b"\n5\nnull\n\xff\n"])
    JsonLines(path).append(row(3))
    assert read_json_lines(path) == [row(1), row(3)]


def test_a_folder_that_is_gone_does_not_end_the_run(tmp_path: Path) -> None:
    lines = JsonLines(tmp_path / "gone" / "metrics.jsonl")
    lines.append(row(1))
    (tmp_path / "gone").mkdir()
    lines.append(row(2))
    assert read_json_lines(tmp_path / "gone" / "metrics.jsonl") == [row(1), row(2)]


def test_a_row_that_does_not_wait_is_whole_or_an_error_that_names_the_file(tmp_path: Path) -> None:
    writer = JsonLines(tmp_path / "rows.jsonl")
    writer.append_now({"index": 0})
    with files_of_at_most(20), pytest.raises(OSError) as caught:
        writer.append_now({"index": 1, "more": "text"})
    assert caught.value.filename == str(tmp_path / "rows.jsonl")
    writer.append_now({"index": 2})
    assert [row["index"] for row in read_json_lines(tmp_path / "rows.jsonl")] == [0, 2]
