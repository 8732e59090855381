"""W&B offline: one run over all its launches, every row at its own step, and rebuilt from metrics.jsonl at will."""

import shutil
import sys
import time
from pathlib import Path

import pytest

from tests.train.callbacks.wandb_files import OfflineRun, offline_runs
from tests.train.conftest import NUM_STEPS, STOP_STEP, Runs
from tests.train.tiny import VOCAB_SIZE
from train.callbacks.weights_and_biases import main, run_id, scalars
from train.run_folder import RunFolder, read_json_lines


def test_lists_become_a_scalar_per_head() -> None:
    metrics = {"step": 3, "train/loss": 2.0, "positions/layer_05/std": [0.5, 0.25]}
    expected = {"train/loss": 2.0, "positions/layer_05/std/head_00": 0.5, "positions/layer_05/std/head_01": 0.25}
    assert scalars(metrics) == expected


def test_the_id_is_made_once_and_kept_in_the_run_folder(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    identity = run_id(folder)
    assert (folder.wandb / "run_id").read_text() == identity == run_id(folder)
    assert identity != run_id(RunFolder(tmp_path / "other"))


def without_housekeeping(run: OfflineRun) -> list[dict[str, float]]:
    own = {"_runtime", "_timestamp", "_wandb", "_step"}
    return [{name: value for name, value in row.items() if name not in own} for row in run.rows]


def test_a_resumed_run_is_one_wandb_run_with_every_row_at_its_step(runs: Runs) -> None:
    folder = RunFolder(runs.root / "runs" / "wandb-stopped")
    first, second = offline_runs(folder.wandb)
    assert first.run_id == second.run_id == (folder.wandb / "run_id").read_text()
    assert [row["_step"] for row in first.rows] == list(range(1, STOP_STEP + 1))
    assert [row["_step"] for row in second.rows] == list(range(STOP_STEP + 1, NUM_STEPS + 1))
    logged = [scalars(row) for row in read_json_lines(folder.metrics)]
    assert without_housekeeping(first) + without_housekeeping(second) == logged
    assert "positions/layer_02/range/head_01" in first.rows[0]


def test_wandb_knows_the_whole_config(runs: Runs) -> None:
    [first, _] = offline_runs(runs.root / "runs" / "wandb-stopped" / "wandb")
    assert first.config["model"]["vocab_size"] == VOCAB_SIZE
    assert first.config["engine"]["precision"] == "fp32"
    assert first.config["positions"] | {"scheme": "repo", "start_layer": 1} == first.config["positions"]


def test_a_wandb_run_can_be_rebuilt_from_the_metrics(
    runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = RunFolder(shutil.copytree(runs.root / "runs" / "crashed", tmp_path / "crashed"))
    monkeypatch.setattr(sys, "argv", ["weights_and_biases", str(folder.path)])
    main()
    deadline = time.monotonic() + 30  # W&B writes in a process of its own, which `finish` does not always wait for
    while len(offline_runs(folder.wandb)[0].rows) < NUM_STEPS and time.monotonic() < deadline:
        time.sleep(0.05)
    [run] = offline_runs(folder.wandb)
    assert run.run_id in capsys.readouterr().out
    assert [row["_step"] for row in run.rows] == list(range(1, NUM_STEPS + 1))
    assert without_housekeeping(run) == [scalars(row) for row in read_json_lines(folder.metrics)]
