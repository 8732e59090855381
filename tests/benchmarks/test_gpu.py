"""The script for a GPU runs on a CPU with tiny shapes, and a part that fails or is cut off leaves what it found."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from benchmarks.gpu import PARTS, Notes, run_limited, run_parts


def fake(command: Sequence[str], limit: float) -> None:
    """Runs a part that is cut off after one figure, one that does not start, and others that end."""
    assert limit <= 20 * 210
    part, path = command[-3], Path(command[-1])
    if part == "speed":
        return
    notes = Notes(path, part)
    notes.row("tokens/s", 60_000, "58,000", holds=True)
    if part == "training":
        return
    notes.row("peak", "70 GiB", "58 GiB", holds=False)
    notes.end("done")


def test_each_part_leaves_what_it_found(tmp_path: Path) -> None:
    results = run_parts(["training", "speed", "profile"], "tiny", tmp_path, fake)
    assert [results[part]["state"] for part in ("training", "speed", "profile")] == ["cut off", "did not start", "done"]
    assert json.loads((tmp_path / "gpu.json").read_text()) == results
    table = (tmp_path / "gpu.md").read_text()
    assert table.count("| tokens/s | 60000 | 58,000 | yes |") == 2
    assert "| peak | 70 GiB | 58 GiB | **no** |" in table and "## speed: did not start" in table


def test_a_part_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    end = tmp_path / "end"
    code = "import sys, time; time.sleep(600); open(sys.argv[1], 'w')"
    run_limited([sys.executable, "-c", code, str(end)], 0.1)
    assert not end.exists()


@pytest.mark.slow
def test_every_part_runs_on_a_cpu(tmp_path: Path) -> None:
    results = run_parts(list(PARTS), "tiny", tmp_path, run_limited)
    assert {part: notes["state"] for part, notes in results.items()} == dict.fromkeys(PARTS, "done")
    rows = [row for notes in results.values() for row in notes["rows"]]
    assert [row for row in rows if row["holds"] is False] == [] and len(rows) > 40
