"""A file on a server that has a numpy header is refused wherever it stands in the list, not read as ids."""

import dataclasses
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from data.config import DataConfig, DataKind, SourceConfig, TokenDtype
from data.errors import DataError
from data.fetch.quota import CopyQuota
from data.fetch.ranges import RangeReader
from data.fetch.roots import open_root
from data.stream import build_stream
from data.tokens import backend
from data.tokens.files import TokenRows, list_token_files
from tests.data.fetch.server import FileServer, serving

MESSAGE = r"saved\.npy has a numpy header, which a file on a server cannot have"
NAMES = ["raw-0.npy", "raw-1.npy", "saved.npy", "raw-2.npy"]
ROW = 64


@pytest.fixture
def server(tmp_path: Path) -> Iterator[FileServer]:
    """Files without a header, and one with, as uint16: all its bytes are ids that a tokenizer may have."""
    (tmp_path / "served").mkdir()
    for number, name in enumerate(NAMES):
        ids = np.random.default_rng(number).integers(0, 4000, 100 * ROW).astype("<u2")
        with (tmp_path / "served" / name).open("wb") as file:
            np.save(file, ids) if name == "saved.npy" else ids.tofile(file)
    with serving(tmp_path / "served") as server:
        yield server


def config_of(server: FileServer, folder: Path) -> DataConfig:
    (folder / "files.txt").write_text("\n".join(NAMES))
    return DataConfig(
        DataKind.tokens,
        root=server.url,
        file_list=str(folder / "files.txt"),
        token_dtype=TokenDtype.uint16,
        eos_token_id=0,
        cache_dir=str(folder / "cache"),
    )


def test_in_a_short_list_it_is_refused_at_the_start(server: FileServer, tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(DataError, match=MESSAGE):
            build_stream(config_of(server, tmp_path), sequence_length=ROW, global_batch_size=8)


def test_of_several_sources_each_is_looked_at_at_the_start(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend, "NUM_CHECKED", 1)
    sources = {
        name: SourceConfig(files, 1.0, token_dtype=TokenDtype.uint16)
        for name, files in (("raw", NAMES[:2]), ("saved", NAMES[2:3]))
    }
    config = dataclasses.replace(
        config_of(server, tmp_path), file_list=None, sources=sources, token_dtype=TokenDtype.uint32
    )
    with pytest.raises(DataError, match=MESSAGE):
        build_stream(config, sequence_length=ROW, global_batch_size=8)


def test_in_a_long_list_it_is_refused_before_the_second_step(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend, "NUM_CHECKED", 1)
    config = config_of(server, tmp_path)
    with closing(build_stream(config, sequence_length=ROW, global_batch_size=16)) as stream:
        num_checked = sum(extent is not None for method, _, extent in server.seen if method == "GET")
        assert num_checked == 1
        assert stream.next_batch().tokens.shape == (16, ROW)
        with pytest.raises(DataError, match=MESSAGE):
            stream.next_batch()


def test_so_it_is_if_it_first_comes_later_or_whole(server: FileServer, tmp_path: Path) -> None:
    """The row of another file is read first; then one of this file, by range and from the file itself."""
    config = config_of(server, tmp_path)
    root = open_root(config.root, config.cache_dir)
    files = list_token_files(root, Path(str(config.file_list)), token_dtype=TokenDtype.uint16)
    ranges = RangeReader(files, CopyQuota(files, root.cache, None))
    saved = np.array([200 + 50])  # not the row that the header is in
    for whole in (False, True):
        with closing(TokenRows(files, ROW, [TokenDtype.uint16] * len(files), ranges)) as rows:
            rows.read(np.array([0]))
            if whole:
                files[2].path.write_bytes((server.folder / "saved.npy").read_bytes())
            with pytest.raises(DataError, match=MESSAGE):
                rows.read(saved)
