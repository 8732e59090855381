"""The Triton kernels, compiled without a GPU, spill no register and are what the committed table says."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.kernels import RESULTS


def compiled(tmp_path: Path, *arguments: str) -> list[str]:
    """The rows of the table, made in a process that compiles: the tests' own one may interpret."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path)
    command = [sys.executable, "-m", "benchmarks.kernels", *arguments]
    out = subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout
    return [line for line in out.splitlines() if line.startswith("|")]


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_widest_kernels_spill_nothing_on_hopper(tmp_path: Path) -> None:
    header, _, *rows = compiled(tmp_path, "--gpu", "H100, H200", "--shape", "1B", "--positions", "head")
    assert len(rows) == 2
    for row in rows:
        found = dict(zip(cells(header), cells(row), strict=True))
        assert found["spills"] == "0" and int(found["registers"]) < 255, row
        assert row in RESULTS.read_text().splitlines(), "run `python -m benchmarks.kernels --write`"


@pytest.mark.slow
def test_the_table_is_what_the_compiler_makes(tmp_path: Path) -> None:
    rows = compiled(tmp_path)
    assert rows == [line for line in RESULTS.read_text().splitlines() if line.startswith("|")]
    spills = cells(rows[0]).index("spills")
    assert {cells(row)[spills] for row in rows[2:]} == {"0"}
