"""Documents are the same whether a file is on disk or read from a server, and reading stops with the reader."""

import json
from pathlib import Path

import orjson
import pytest

from data.errors import DataError
from data.fetch.files import DataFile, find_files
from data.fetch.web import WebFolder
from data.text.decode import decode_lines
from data.text.form import TextForm, with_form
from data.text.frames import RecordCounts
from data.text.records import read_first_records, read_records
from tests.data.fetch.server import serving


@pytest.mark.parametrize("name", ["web/shard-00.jsonl.zst", "qa/shard-00.jsonl.gz", "math/shard-00.jsonl"])
def test_a_remote_file_has_the_documents_of_the_file_on_disk(sample: Path, tmp_path: Path, name: str) -> None:
    (local,) = find_files(sample, [name], "key", {})
    with serving(sample) as server:
        remote = DataFile(name, tmp_path / name, local.num_bytes, None, None, WebFolder(server.url))
        expected, found = RecordCounts(), RecordCounts()
        assert list(read_first_records(remote, found)) == list(read_records(local, expected))
        assert found == expected
        assert next(read_first_records(remote, found)) == next(read_records(local, expected))
    assert not (tmp_path / name).exists()


def test_a_remote_file_that_is_truncated_is_named(sample: Path, tmp_path: Path) -> None:
    content = (sample / "web/shard-00.jsonl.zst").read_bytes()[:-50]
    (tmp_path / "cut.jsonl.zst").write_bytes(content)
    with serving(tmp_path) as server:
        path = tmp_path / "cache/cut.jsonl.zst"
        file = DataFile("cut.jsonl.zst", path, len(content), None, None, WebFolder(server.url))
        with pytest.raises(DataError, match=r"cut\.jsonl\.zst is truncated"):
            list(read_first_records(file, RecordCounts()))


@pytest.mark.parametrize("ends", ["\n", "\r\n"])
def test_a_separator_is_found_with_line_ends_of_both_kinds(tmp_path: Path, ends: str) -> None:
    text = "one\n\ntwo\nof two lines\n\nthree\n".replace("\n", ends)
    (tmp_path / "a.txt").write_bytes(text.encode())
    (file,) = find_files(tmp_path, ["a.txt"], "key", {})
    found = read_records(with_form(file, TextForm(separator="\n\n")), RecordCounts())
    assert [record.text for record in found] == ["one", "two\nof two lines", "three"]
    if ends == "\r\n":
        found = read_records(with_form(file, TextForm(separator="\r\n\r\n")), RecordCounts())
        assert [record.text for record in found] == ["one", "two\r\nof two lines", "three"]


def test_line_ends_of_two_bytes_may_lie_on_both_sides_of_a_chunk() -> None:
    content = b"one\r\n\r\ntwo\r\n\r\n\rthree\r"
    for at in range(1, len(content)):
        chunks = iter([content[:at], content[at:]])
        assert list(decode_lines(Path("a.txt"), chunks, b"\n\n")) == [b"one", b"two", b"\rthree\r"]
    chunks = iter([content[at : at + 1] for at in range(len(content))])
    assert list(decode_lines(Path("a.txt"), chunks, b"\n\n")) == [b"one", b"two", b"\rthree\r"]


def test_a_json_object_over_several_lines_is_not_called_truncated(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps({"text": "one", "meta": [1, {"a": 2}]}, indent=2))
    (file,) = find_files(tmp_path, ["a.json"], "key", {})
    with pytest.raises(DataError, match=r"a\.json has several lines and a JSON object in none of them; write each"):
        list(read_records(file, RecordCounts()))
    for content in ('{"text": "one"}\n{"text": "tw', '{"text": "on'):
        (tmp_path / "a.json").write_text(content)
        with pytest.raises(DataError, match=r"a\.json is truncated: it ends within a line"):
            list(read_records(file, RecordCounts()))


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (None, "null and no text in 'text'"),
        (["a"], "a list and no text in 'text'"),
        ({"a": 1}, "nested fields and no text in 'text'"),
        (3, "a value (int) and no text in 'text'"),
        (b"bytes", "bytes and no text in 'text'"),
    ],
)
def test_a_field_of_another_kind_is_named(tmp_path: Path, value: object, found: str) -> None:
    if isinstance(value, bytes):
        from datasets import Dataset

        Dataset.from_dict({"text": [value]}).to_parquet(str(tmp_path / "a.parquet"))
    else:
        (tmp_path / "a.jsonl").write_bytes(orjson.dumps({"text": value}))
    (file,) = find_files(tmp_path, ["a.*"], "key", {})
    counts = RecordCounts()
    assert list(read_records(file, counts)) == []
    assert counts.reason.startswith(f"record 1 has {found}; its fields are text")
