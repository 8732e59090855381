"""Documents are the same whether a file is on disk or read from a server, and reading stops with the reader."""

from pathlib import Path

import pytest

from data.errors import DataError
from data.fetch.files import DataFile, find_files
from data.fetch.web import WebFolder
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
