"""A real file system of a few MB that fills up while a run on two ranks saves there."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.train.full_disk import ALERT_STEP
from tests.train.probe import events, metrics
from tests.train.test_run_folder import in_a_mount_of_its_own
from tests.train.tiny import write_tokens
from train.errors import EXIT_OK, EXIT_UNSAVED

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the runs left, in `runs`, with how they ended and what they printed."""
    root = tmp_path_factory.mktemp("full")
    write_tokens(root / "tokens")
    (root / "disk").mkdir()
    (root / "runs").mkdir()
    ended = in_a_mount_of_its_own(
        f"mount -t tmpfs -o size=8m tmpfs {root / 'disk'}",
        *(sys.executable, "-m", "launch.torchrun", "--standalone", "--nproc-per-node=2", "--module"),
        *("tests.train.full_disk", str(root), str(root / "disk"), str(root / "runs")),
    )
    assert ended.returncode == 0, ended.stderr
    (root / "stderr").write_text(ended.stderr)
    return root


def seen(root: Path, name: str) -> dict[str, Any]:
    return dict(json.loads((root / "runs/seen.json").read_text())[name])


def kinds(root: Path, name: str) -> list[tuple[str, int]]:
    return [(event["event"], event["step"]) for event in events(root, name)]


def test_a_save_on_a_full_disk_is_a_line_and_training_goes_on_and_saves_later(root: Path) -> None:
    assert seen(root, "freed") == {"code": EXIT_OK}
    assert kinds(root, "freed") == [
        ("start", 0),
        ("checkpoint", 2),
        ("save_failed", 4),
        ("checkpoint", 6),
        ("checkpoint", 8),
        ("stop", 8),
    ]
    [failed] = [event for event in events(root, "freed") if event["event"] == "save_failed"]
    assert "No space left on device" in failed["reason"] and failed["reason"] in (root / "stderr").read_text()


def test_an_alert_that_saves_on_a_full_disk_is_a_line_and_training_goes_on(root: Path) -> None:
    assert seen(root, "alerted") == {"code": EXIT_OK}
    assert kinds(root, "alerted") == [
        ("start", 0),
        ("alert", ALERT_STEP),
        ("save_failed", ALERT_STEP),
        ("checkpoint", 16),
        ("stop", 16),
    ]


def test_no_row_is_lost_to_a_full_disk(root: Path) -> None:
    assert [row["step"] for row in metrics(root, "freed")] == list(range(1, 9))


def test_a_last_save_that_fails_ends_with_a_code_of_its_own_and_keeps_what_was_saved(root: Path) -> None:
    ended = seen(root, "full")
    assert ended["code"] == EXIT_UNSAVED
    assert "No space left on device" in ended["error"] and "\n" not in ended["error"]
    checkpoints = root / "runs/full/checkpoints"
    assert [path.name for path in checkpoints.glob("*step-*")] == ["step-0000002"]
    assert [path.name for path in checkpoints.glob(".*")] == []
    failed = [step for event, step in kinds(root, "full") if event == "save_failed"]
    assert failed == [4, 6]  # what fails at the last step is not followed by another interval


def test_an_export_that_does_not_fit_is_a_line_after_the_last_checkpoint(root: Path) -> None:
    ended = seen(root, "unexported")
    assert ended["code"] == EXIT_UNSAVED
    assert "could not be exported" in ended["error"] and "\n" not in ended["error"]
    assert "No space left on device" in ended["error"]
    assert ("checkpoint", 8) in kinds(root, "unexported")
    assert (root / "runs/unexported/checkpoints/step-0000008").is_dir()
