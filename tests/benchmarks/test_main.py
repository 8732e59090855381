"""`python -m benchmarks` runs benchmarks one by one and prints their figures beside their targets in one table."""

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.__main__ import BY_NAME, commands, run_all
from benchmarks.figures import Figure, Origin


def python(code: str) -> list[str]:
    return [sys.executable, "-c", f"from benchmarks.figures import *; {code}"]


def test_one_table_has_the_figures_of_all_and_what_is_missing_is_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = {
        "precision": [sys.executable, "-m", "benchmarks.precision", "--tokens", "16"],
        "fails": python("report(Figure('speed', 2500, 'MB/s', at_least=3e3)); raise ValueError('no such thing')"),
        "gpu": python("leave_out('no GPU here')"),
        "last": python("report(Figure('waits', 0, at_most=0, origin=Origin.counted))"),
    }
    results = run_all(chosen, tmp_path / "new" / "table.md")
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("precision: 3 figures, 1 of 1 targets met, ")
    assert said[1].startswith("fails: broke: exit code 1, ValueError: no such thing (")
    assert said[2:3] == ["gpu: left out: no GPU here"] and len(said) == 4
    assert [bool(result.broke) for result in results.values()] == [False, True, False, False]
    rows = (tmp_path / "new" / "table.md").read_text().splitlines()
    assert "| fails | speed | 2,500 MB/s | at least 3,000 MB/s | **missed** | measured |" in rows
    assert "| last | waits | 0 | at most 0 | met | counted |" in rows
    assert "| gpu | left out: no GPU here |  |  |  |  |" in rows
    assert len([row for row in rows if row.startswith("| fails | **broke**: exit code 1, ValueError")]) == 1
    assert len([row for row in rows if row.startswith("| precision | relative error of z, ours")]) == 1
    assert "Traceback" in (tmp_path / "new" / "fails.log").read_text()


def test_every_benchmark_has_a_command_that_its_name_finds() -> None:
    for name, command in commands().items():
        assert (Path("benchmarks") / f"{command[2].rpartition('.')[2]}.py").exists(), name
    assert {"step", "counters", "gpu", "data_ranges_s3", *BY_NAME} <= commands().keys()
    asked = subprocess.run([sys.executable, "-m", "benchmarks", "nothing"], capture_output=True, text=True, check=False)
    assert asked.returncode == 2 and "there is no benchmark nothing: choose from checkpoint" in asked.stderr


@pytest.mark.parametrize(
    ("value", "bounds", "target", "is_met"),
    [
        (1.0, {}, "", None),
        (1.0, {"at_most": 1.0}, "at most 1 s", True),
        (1.01, {"at_most": 1.0}, "at most 1 s", False),
        (0.5, {"at_least": 1.0}, "at least 1 s", False),
        (2.0, {"at_least": 1.0, "at_most": 3.0}, "at most 3 s and at least 1 s", True),
        (float("nan"), {"at_most": 1.0}, "at most 1 s", False),
    ],
)
def test_a_target_is_met_within_its_bounds(
    value: float, bounds: dict[str, float], target: str, is_met: bool | None
) -> None:
    figure = Figure("time", value, "s", **bounds, origin=Origin.measured)
    assert (figure.target, figure.is_met) == (target, is_met)
