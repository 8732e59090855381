"""metrics.jsonl: each step once, whatever was done twice; readable after any kill."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from common.json_lines import read_json_lines
from train.callbacks.callback import TrainerInterface
from train.callbacks.metrics_file import MetricsFile
from train.run_folder import RunFolder


def at_step(folder: Path, step: int) -> TrainerInterface:
    """The parts of a trainer that the file reads."""
    stand_in: Any = SimpleNamespace(folder=RunFolder(folder), step=step)
    return cast(TrainerInterface, stand_in)


def log(folder: Path, start: int, stop: int) -> None:
    file = MetricsFile()
    file.on_start(at_step(folder, start))
    for step in range(start + 1, stop + 1):
        file.on_metrics(at_step(folder, step), {"step": step, "loss": step / 10 + start})


def test_rows_past_the_checkpoint_are_superseded(tmp_path: Path) -> None:
    log(tmp_path, 0, 7)
    log(tmp_path, 4, 9)
    rows = read_json_lines(tmp_path / "metrics.jsonl")
    assert [row["step"] for row in rows] == list(range(1, 10))
    assert rows[3]["loss"] == 0.4 and rows[4]["loss"] == 4.5
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_rows_are_on_disk_at_once_and_a_truncated_last_line_is_left_out(tmp_path: Path) -> None:
    log(tmp_path, 0, 3)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 4, "loss": 0.4})[:9])
    assert [row["step"] for row in read_json_lines(tmp_path / "metrics.jsonl")] == [1, 2, 3]
    log(tmp_path, 3, 5)
    assert [row["step"] for row in read_json_lines(tmp_path / "metrics.jsonl")] == [1, 2, 3, 4, 5]


def test_a_number_that_is_not_finite_is_null_and_does_not_change_the_other_heads(tmp_path: Path) -> None:
    file, nan = MetricsFile(), float("nan")
    file.on_start(at_step(tmp_path, 0))
    file.on_metrics(at_step(tmp_path, 1), {"step": 1, "loss": nan, "positions/layer_05/std": [1.0, nan, -float("inf")]})
    [row] = read_json_lines(tmp_path / "metrics.jsonl")
    assert row == {"step": 1, "loss": None, "positions/layer_05/std": [1.0, None, None]}
