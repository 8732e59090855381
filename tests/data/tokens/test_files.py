"""Rows of token files by number, from more files than may be open at a time."""

from pathlib import Path

import numpy as np
import psutil
import pytest

from data.fetch.files import DataFile
from data.tokens import files
from data.tokens.files import TokenRows


def test_rows_come_from_more_files_than_are_open_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MAX_OPEN_FILES", 3)
    paths = [tmp_path / f"{number}.npy" for number in range(10)]
    for number, path in enumerate(paths):
        np.arange(number * 8, number * 8 + 8, dtype="<u4").tofile(path)
    rows = TokenRows([DataFile(path.name, path, path.stat().st_size) for path in paths], 4)
    order = np.random.default_rng(0).permutation(20)
    np.testing.assert_array_equal(rows.read(order), order[:, None] * 4 + np.arange(4))
    held = [file.path for file in psutil.Process().open_files() if Path(file.path).parent == tmp_path]
    assert len(held) == 3
