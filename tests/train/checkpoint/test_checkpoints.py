"""The owner of checkpoints decides what is left to do."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.train.conftest import NUM_STEPS, Runs
from tests.train.tiny import tiny
from train.checkpoint.checkpoints import Checkpoints
from train.checkpoint.store import Layout
from train.distributed import Ranks
from train.engine.config import Precision
from train.run_folder import RunFolder


@pytest.fixture
def finished(crashes: Runs, tmp_path: Path) -> RunFolder:
    """A copy of a run that has finished, and exported nothing."""
    return RunFolder(shutil.copytree(crashes.folder("crashed").path, tmp_path / "runs" / "crashed"))


def owner_of(folder: RunFolder, **changes: Any) -> Checkpoints:
    config = tiny(folder.path.parents[1], name="crashed", checkpoint__interval=2, checkpoint__keep=2, **changes)
    return Checkpoints(config, Ranks(), folder, Layout.of(config, 2, Precision.fp32))


def test_a_finished_run_has_nothing_left_to_do(finished: RunFolder) -> None:
    owner = owner_of(finished)
    start = owner.choose_start()
    assert owner.is_finished(start)
    assert owner.describe_finished(start).startswith(f"crashed has done all of its {NUM_STEPS} steps; raise max_steps")


def test_settings_that_a_finished_run_did_not_use_are_named(finished: RunFolder) -> None:
    owner = owner_of(finished, optimizer__lr=1.0, seed=7, stop_step=3, evaluation__enabled=False)
    said = owner.describe_finished(owner.choose_start())
    assert "it was not trained with" in said and "\n" not in said
    assert "optimizer.lr (was 0.003, is 1.0)" in said and "seed (was 5, is 7)" in said
    assert "stop_step (was null, is 3)" in said and "evaluation.enabled (was true, is false)" in said


def test_a_run_that_is_longer_than_asked_for_has_nothing_left_and_says_so_once(finished: RunFolder) -> None:
    owner = owner_of(finished, max_steps=NUM_STEPS - 1)
    start = owner.choose_start()
    assert owner.is_finished(start)
    said = owner.describe_finished(start)
    assert said.startswith(f"crashed has done {NUM_STEPS} steps, more than max_steps={NUM_STEPS - 1}: nothing is left")
    assert "max_steps (was" not in said


@pytest.mark.parametrize("changes", [{"max_steps": NUM_STEPS + 1}, {"checkpoint__export_hf": True}])
def test_more_steps_or_a_missing_export_are_left_to_do(finished: RunFolder, changes: dict[str, Any]) -> None:
    owner = owner_of(finished, **changes)
    assert not owner.is_finished(owner.choose_start())


def test_a_run_that_was_cut_off_after_its_last_checkpoint_is_not_finished(finished: RunFolder) -> None:
    lines = finished.events.read_text().splitlines(keepends=True)
    finished.events.write_text("".join(line for line in lines if '"stop"' not in line))
    owner = owner_of(finished)
    assert not owner.is_finished(owner.choose_start())
