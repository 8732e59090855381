"""Rows from an S3 server (moto), where s3fs and moto are installed: pip install s3fs 'moto[server,s3]'."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data.config import DataConfig, DataKind
from data.errors import DataError
from data.fetch import retry
from tests.data.reading import assert_same, read_global

pytestmark = pytest.mark.slow
s3fs = pytest.importorskip("s3fs")
server = pytest.importorskip("moto.server")
NAMES = [f"mix/part-{number}.npy" for number in range(3)]


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A bucket of a server in this process."""
    monkeypatch.setattr(retry, "FIRST_PAUSE", 0.001)
    moto = server.ThreadedMotoServer("127.0.0.1", 0)
    moto.start()
    host, port = moto.get_host_and_port()
    for name, value in (
        ("AWS_ACCESS_KEY_ID", "x"),
        ("AWS_SECRET_ACCESS_KEY", "y"),
        ("AWS_DEFAULT_REGION", "us-east-1"),
        ("AWS_ENDPOINT_URL", f"http://{host}:{port}"),
    ):
        monkeypatch.setenv(name, value)
    files = s3fs.S3FileSystem(skip_instance_cache=True)
    files.mkdir("bucket")
    yield files
    moto.stop()


def test_rows_of_a_bucket_are_those_of_local_files_with_workers_and_a_change_is_named(
    bucket: Any, tmp_path: Path
) -> None:
    for number, name in enumerate(NAMES):
        tokens = np.random.default_rng(number).integers(0, 50, 100_000 + number, dtype="<u4")
        (tmp_path / "mix").mkdir(exist_ok=True)
        tokens.tofile(tmp_path / name)
        bucket.pipe_file(f"bucket/data/{name}", tokens.tobytes())
    (tmp_path / "files.txt").write_text("\n".join(NAMES))
    local = DataConfig(DataKind.tokens, str(tmp_path), file_list=str(tmp_path / "files.txt"), eos_token_id=0)
    remote = dataclasses.replace(local, root="s3://bucket/data", cache_dir=str(tmp_path / "cache"))
    expected, _ = read_global(local, 40, length=1024)
    start, state = read_global(remote, 4, length=1024)
    rest, _ = read_global(remote, 36, length=1024, state=state, num_workers=2, world_size=2)
    assert_same(expected, start + rest)
    assert len(list((tmp_path / "cache").rglob("*.rows"))) == 3  # by row
    fresh = dataclasses.replace(remote, cache_dir=str(tmp_path / "fresh"))
    read_global(fresh, 0, length=4096)
    bucket.pipe_file(f"bucket/data/{NAMES[1]}", bytes(400_004))
    with pytest.raises(DataError, match="has changed on the server since it was listed"):
        read_global(fresh, 4, length=4096)
