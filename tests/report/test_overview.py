"""A run's line in a list of runs, from folders in any state."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from report.metrics import EVAL_LOSS, TOKENS_PER_SECOND
from report.overview import find_runs, last_rows, newest_value, overview
from report.run_folder import Holder, RunFiles
from tests.report.folders import evaluated, make_run

STOP = {"event": "stop", "reason": "finished", "step": 50}


def hold(folder: RunFiles, pid: int, host: str | None = None) -> None:
    folder.lock_file.write_text(Holder(pid, host or socket.gethostname()).text)


def add(folder: RunFiles, row: dict[str, float]) -> None:
    with folder.metrics.open("a") as file:
        file.write(json.dumps(row) + "\n")


def test_figures_are_those_of_the_last_rows(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "a", range(1, 51), events=[STOP])
    folder.config.write_text("max_steps: 50")
    add(folder, {"step": 50, **evaluated(50)})
    (folder.checkpoints / "step-0000040").mkdir(parents=True)
    (folder.checkpoints / "step-0000050").mkdir()
    seen = overview(folder)
    assert (seen.state, seen.step, seen.max_steps, seen.checkpoint) == ("finished", 50, 50, 50)
    assert seen.loss == pytest.approx(3 + sum(1 / step for step in range(41, 51)) / 10)
    assert seen.eval_loss == evaluated(50)["eval/loss"] and seen.tokens_per_second == 5e4
    assert seen.seconds_left is None and not seen.is_alive


def test_a_run_whose_process_is_dead_is_killed_and_one_elsewhere_is_believed(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "a", range(1, 5), events=[{"event": "start"}])
    folder.config.write_text("max_steps: 100")
    add(folder, {"step": 5, "throughput/step_seconds": 2.0})
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    hold(folder, ended.pid)
    assert overview(folder).state == "killed" and overview(folder).seconds_left is None
    hold(folder, os.getpid())  # alive, but no process of a run: its number was used again
    assert overview(folder).state == "killed"
    hold(folder, 1, host="elsewhere")
    assert overview(folder).state == "running" and overview(folder).place == "process 1 on elsewhere"
    assert overview(folder).seconds_left == 95 * 2.0
    training = subprocess.Popen([sys.executable, "-c", "input()", "-m", "train"], stdin=subprocess.PIPE)
    hold(folder, training.pid)
    assert overview(folder).is_alive
    begun = make_run(tmp_path / "b", range(0))
    hold(begun, training.pid)
    assert overview(begun).state == "starting" and overview(begun).is_alive
    training.communicate(b"\n")
    assert overview(begun).state == "no step" and not overview(begun).is_alive
    assert not overview(folder).is_alive


def test_a_folder_in_any_state_has_a_line(tmp_path: Path) -> None:
    assert find_runs(tmp_path / "absent") == find_runs(tmp_path) == []
    folder = RunFiles(tmp_path / "young")
    folder.path.mkdir()
    folder.config.write_text("max_steps: ten")
    truncated = make_run(tmp_path / "truncated", range(1, 3))
    with truncated.metrics.open("ab") as file:
        file.write(b'5\nnull\n{"step": "x"}\n{"step": 3, "eval/loss": 1.5')
    truncated.lock_file.write_bytes(b"\xff")
    empty = RunFiles(tmp_path / "empty")
    empty.path.mkdir()
    empty.metrics.touch()
    (tmp_path / "no-run").mkdir()
    seen = {found.path.name: overview(found) for found in find_runs(tmp_path)}
    assert sorted(seen) == ["empty", "truncated", "young"]
    assert (seen["young"].step, seen["young"].max_steps, seen["young"].loss) == (0, None, None)
    assert (seen["truncated"].step, seen["truncated"].eval_loss) == (2, None)
    assert [found.path.name for found in find_runs(truncated.path)] == ["truncated"]


def test_the_newest_value_is_found_however_far_back_it_is(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "a", range(1, 3))
    add(folder, {"step": 3, EVAL_LOSS: 1.25})
    add(folder, {"step": 4, "other": f'"{EVAL_LOSS}": 7'})  # type: ignore[dict-item]  # the name within a text
    for step in range(5, 500):
        add(folder, {"step": step, TOKENS_PER_SECOND: float(step)})
    assert newest_value(folder.metrics, EVAL_LOSS) == 1.25
    assert newest_value(folder.metrics, TOKENS_PER_SECOND) == 499
    assert newest_value(folder.metrics, "absent") is None
    rows = list(last_rows(folder.metrics, num_bytes=1000))
    assert rows[-1]["step"] == 499 and len(rows) < 100
