"""Token files on the disk, and a server of them."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from data.config import DataConfig, DataKind
from tests.data.fetch.server import FileServer, serving
from tests.data.tokens.by_range import NAMES


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> DataConfig:
    """Four token files, each a few dozen blocks and a rest."""
    folder = tmp_path_factory.mktemp("served")
    for number, name in enumerate(NAMES):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        np.random.default_rng(number).integers(0, 50, 60_000 + 999 * number, dtype="<u4").tofile(folder / name)
    (folder / "files.txt").write_text("\n".join(NAMES))
    return DataConfig(DataKind.tokens, root=str(folder), file_list=str(folder / "files.txt"), eos_token_id=0)


@pytest.fixture
def server(local: DataConfig) -> Iterator[FileServer]:
    with serving(Path(local.root)) as server:
        yield server
