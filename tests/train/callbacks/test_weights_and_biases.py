"""W&B offline: one run over all its launches, every row at its own step, and rebuilt from metrics.jsonl at will."""

import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from common.json_lines import read_json_lines
from report.metrics import MetricTable
from report.panels import PICTURED, scalars
from tests.train.callbacks.wandb_files import OfflineRun, finished_runs
from tests.train.conftest import NUM_STEPS, STOP_STEP, Runs
from tests.train.tiny import VOCAB_SIZE, tiny
from train.callbacks import weights_and_biases
from train.callbacks.config import WandbMode
from train.callbacks.weights_and_biases import main, run_id
from train.errors import Stop, StopReason
from train.run_folder import RunFolder
from train.watch.alert import Alert
from train.watch.probe_texts import PROBE_TEXTS

TABLE = MetricTable.of({})


def test_the_id_is_made_once_and_kept_in_the_run_folder(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    identity = run_id(folder)
    assert (folder.wandb / "run_id").read_text() == identity == run_id(folder)
    assert identity != run_id(RunFolder(tmp_path / "other"))


def test_the_id_of_a_wandb_agents_run_is_the_agents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_RUN_ID", "agent1")
    assert run_id(RunFolder(tmp_path / "other")) != "agent1"
    monkeypatch.setenv("WANDB_SWEEP_ID", "sweep1")
    assert run_id(RunFolder(tmp_path / "run")) == "agent1"


def numbers(rows: list[dict[str, Any]]) -> list[dict[str, float]]:
    """The scalars of rows, without W&B's own."""
    own = {"_runtime", "_timestamp", "_wandb", "_step"}
    return [{k: v for k, v in row.items() if k not in own and not isinstance(v, dict)} for row in rows]


def image(run: OfflineRun, step: int, name: str) -> np.ndarray:
    """An image that was logged at a step, [height, width, channels]."""
    [row] = [row for row in run.rows if row["_step"] == step]
    assert row[name]["_type"] == "image-file"
    return np.asarray(Image.open(run.media / row[name]["path"]))


def test_a_resumed_run_is_one_wandb_run_with_every_row_at_its_step(stages: Runs) -> None:
    folder = stages.folder("wandb-stopped")
    first, second = finished_runs(folder.wandb)
    assert first.run_id == second.run_id == (folder.wandb / "run_id").read_text()
    assert [row["_step"] for row in first.rows] == list(range(STOP_STEP + 1))  # texts are probed before the first
    assert [row["_step"] for row in second.rows] == list(range(STOP_STEP + 1, NUM_STEPS + 1))
    logged = [scalars(row, TABLE) for row in read_json_lines(folder.metrics)]
    assert numbers(first.rows[1:]) + numbers(second.rows) == logged
    assert "positions_range/layer_01_max" in first.rows[1]


def test_pictures_of_statistics_and_texts_are_in_the_files(stages: Runs) -> None:
    folder = stages.folder("wandb-stopped")
    first, second = finished_runs(folder.wandb)
    for name in PICTURED:
        assert image(first, 1, f"positions_pictures/{name}").std() > 10, name
    for text in PROBE_TEXTS:
        fresh, last = image(first, 0, f"probes/{text}"), image(second, NUM_STEPS, f"probes/{text}")
        assert fresh.std() > 10 and fresh.shape == last.shape and (fresh != last).any(), text
    assert sum(any(name.startswith("probes/") for name in row) for row in [*first.rows, *second.rows]) == 6
    histogram = first.rows[1]["positions_std/heads"]
    assert histogram["_type"] == "histogram" and sum(histogram["values"]) == 2  # a layer of two heads


def test_probes_of_an_alert_and_of_a_stop_reach_wandb(stages: Runs, tmp_path: Path) -> None:
    probe = stages.folder("wandb-stopped").probe(0)
    callback = weights_and_biases.for_run(tiny(tmp_path, wandb__mode=WandbMode.offline))
    trainer: Any = SimpleNamespace(folder=RunFolder(tmp_path / "run"), step=0)
    callback.on_probe(trainer, probe)  # before the thread starts: PositionProbes starts first
    callback.on_start(trainer)
    for trainer.step in (5, 7):  # steps at which no probe is due
        callback.on_probe(trainer, probe)
    callback.on_stop(trainer, Stop(StopReason.signal, "SIGTERM"))
    name = f"probes/{next(iter(PROBE_TEXTS))}"
    [run] = finished_runs(trainer.folder.wandb)
    assert [row["_step"] for row in run.rows if name in row] == [0, 5, 7]


def test_alerts_are_in_the_files(tmp_path: Path) -> None:
    callback, found = (
        weights_and_biases.for_run(tiny(tmp_path, wandb__mode=WandbMode.offline)),
        "layer 1 head 0 has collapsed",
    )
    trainer: Any = SimpleNamespace(folder=RunFolder(tmp_path / "run"), step=4)
    callback.on_start(trainer)
    for event in ("alert", "recovery"):
        callback.on_alert(trainer, Alert(event, "collapse", "layer 1 head 0", 2, found))
    callback.on_stop(trainer, Stop(StopReason.finished))
    [run] = finished_runs(trainer.folder.wandb)
    assert run.alerts == [("alert: collapse", found, "WARN"), ("recovery: collapse", found, "INFO")]


def test_alerts_that_a_killed_run_finds_again_are_not_sent_again(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    for steps in ([4, 5], [4, 5, 6]):
        callback = weights_and_biases.for_run(tiny(tmp_path, wandb__mode=WandbMode.offline))
        trainer: Any = SimpleNamespace(folder=folder, step=2)
        callback.on_start(trainer)
        for trainer.step in steps:
            callback.on_alert(trainer, Alert("alert", "collapse", "layer 1 head 0", 2, f"found at {trainer.step}"))
        callback.on_stop(trainer, Stop(StopReason.finished))
    sent = [text for run in finished_runs(folder.wandb) for _, text, _ in run.alerts]
    assert sent == ["found at 4", "found at 5", "found at 6"]


def test_an_error_of_wandb_ends_logging_there_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class BrokenRun:
        def log(self, row: dict[str, Any], step: int) -> None:
            raise OSError("no space left")

    monkeypatch.setattr(weights_and_biases, "open_run", lambda *arguments: BrokenRun())
    callback = weights_and_biases.for_run(tiny(tmp_path, wandb__mode=WandbMode.offline))
    trainer: Any = SimpleNamespace(step=1, folder=RunFolder(tmp_path))
    callback.on_start(trainer)
    callback.on_metrics(trainer, {"step": 1, "train/loss": 2.0})
    callback.on_metrics(trainer, {"step": 2, "train/loss": 2.0})
    callback.on_stop(trainer, Stop(StopReason.finished))
    [message] = [record.message for record in caplog.records]
    assert message.startswith("W&B is not available (no space left): going on without it")


def test_wandb_knows_the_whole_config(stages: Runs) -> None:
    [first, _] = finished_runs(stages.folder("wandb-stopped").wandb)
    assert first.config["model"]["vocab_size"] == VOCAB_SIZE
    assert first.config["engine"]["precision"] == "fp32"
    assert first.config["positions"] | {"scheme": "repo", "start_layer": 1} == first.config["positions"]


def test_a_wandb_run_can_be_rebuilt_from_the_metrics(
    crashes: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = RunFolder(shutil.copytree(crashes.folder("crashed").path, tmp_path / "crashed"))
    monkeypatch.setattr(sys, "argv", ["weights_and_biases", str(folder.path)])
    main()
    [run] = finished_runs(folder.wandb)
    assert run.run_id in capsys.readouterr().out
    assert [row["_step"] for row in run.rows] == list(range(1, NUM_STEPS + 1))
    assert numbers(run.rows) == [scalars(row, TABLE) for row in read_json_lines(folder.metrics)]
    assert image(run, 1, "positions_pictures/std").std() > 10
