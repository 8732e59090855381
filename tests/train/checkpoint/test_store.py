"""The folder of checkpoints: whatever is killed when, what has the name of a checkpoint is whole."""

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

from tests.train.conftest import Runs
from train.checkpoint.manifest import find_damage
from train.checkpoint.store import (
    Layout,
    checkpoint_folders,
    clear_leftovers,
    complete_publication,
    drop_old,
    kept_steps,
    newest_checkpoint,
    publish,
    read_checkpoint,
    remove,
)

CHANGING = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "shutil.rmtree", "open"}  # audited by Python itself


def killed_at(number: int, work: Callable[[], object]) -> bool:
    """Do `work` in a process that is killed before its `number`-th change of the file system; whether it got so far."""
    child = os.fork()
    if child == 0:
        seen = 0

        def count(event: str, arguments: object) -> None:
            nonlocal seen
            if event in CHANGING:
                seen += 1
                if seen == number:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(count)
        work()
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    assert status == 0 or os.WTERMSIG(status) == signal.SIGKILL
    return status != 0


@pytest.fixture
def root(crashes: Runs, tmp_path: Path) -> Path:
    """Whole checkpoints of steps 6 and 8."""
    return Path(shutil.copytree(crashes.folder("crashed").checkpoints, tmp_path / "checkpoints"))


@pytest.mark.parametrize(
    ("steps", "keep", "keep_every", "kept"),
    [
        ([], 3, None, set()),
        ([10], 1, None, {10}),
        ([10, 20, 30, 40], 1, None, {40}),
        ([40, 10, 30, 20], 3, None, {20, 30, 40}),
        ([10, 20, 30, 40, 50], 1, 20, {20, 40, 50}),
        ([10, 20, 30, 33], 2, 20, {20, 30, 33}),
        ([7], 2, 5, {7}),
        ([10, 20, 30], 5, 7, {10, 20, 30}),
    ],
)
def test_the_newest_and_every_nth_are_kept(steps: list[int], keep: int, keep_every: int | None, kept: set[int]) -> None:
    assert kept_steps(steps, keep, keep_every) == kept


def test_a_damaged_checkpoint_is_neither_counted_nor_deleted(root: Path) -> None:
    shutil.copytree(root / "step-0000008", root / "step-0000010")
    (root / "step-0000010" / "trainer.json").unlink()
    drop_old(root, keep=1, keep_every=None)
    assert [folder.name for folder in checkpoint_folders(root)] == ["step-0000010", "step-0000008"]


def test_a_kill_while_deleting_leaves_no_partial_checkpoint(root: Path) -> None:
    whole, number = root / "step-0000006", 1
    copy = shutil.copytree(whole, root.parent / "copy")
    while killed_at(number, lambda: remove(whole)):
        if whole.exists():
            assert find_damage(whole, read_checkpoint(whole).files.items()) is None
        else:
            shutil.copytree(copy, whole)
        number += 1
    assert number > 5 and not whole.exists()


def test_a_file_or_a_link_with_the_name_of_a_leftover_is_deleted_like_a_folder(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    root = tmp_path / "checkpoints"
    root.mkdir()
    (root / ".part-step-0000002").write_text("")
    (root / ".part-step-0000004").symlink_to(outside)
    (root / ".old-step-0000001").mkdir()
    (root / "step-0000003").write_text("")
    clear_leftovers(root)
    remove(root / "step-0000003")
    assert not list(root.iterdir()) and outside.is_dir()


def test_a_kill_while_publishing_leaves_the_old_or_the_new_checkpoint(root: Path) -> None:
    part = root / ".part-step-0000010"
    shutil.copytree(root / "step-0000008", part)
    (part / "manifest.json").unlink()
    files = read_checkpoint(root / "step-0000008").files
    backup = shutil.copytree(root, root.parent / "backup")

    def save() -> None:
        publish(root, part, 10, Layout(2, 2, "fp32", decay_embeddings=False, decay_norms=True), files)
        complete_publication(root / "step-0000010", keep=2, keep_every=None)

    newest, number = [], 1
    while killed_at(number, save):
        checkpoint = newest_checkpoint(root)
        assert checkpoint is not None
        for folder in checkpoint_folders(root):
            assert find_damage(folder, read_checkpoint(folder).files.items()) is None
        newest.append(checkpoint.step)
        shutil.rmtree(root)
        shutil.copytree(backup, root)
        number += 1
    assert newest == sorted(newest) and set(newest) == {8, 10}
    assert [folder.name for folder in checkpoint_folders(root)] == ["step-0000010", "step-0000008"]
    assert (root / "latest").read_text() == "step-0000010\n"


@pytest.mark.parametrize("broken", ["latest", "old"])
def test_what_fails_after_the_publication_is_a_warning(
    root: Path, broken: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    if broken == "latest":
        (root / "latest").unlink()
        (root / "latest").mkdir()
    else:
        monkeypatch.setattr(shutil, "rmtree", lambda *arguments, **options: None)
        (root / ".old-step-0000006" / "stuck").mkdir(parents=True)
    complete_publication(root / "step-0000008", keep=1, keep_every=None)
    [record] = caplog.records
    assert "step-0000008 is saved, but could not be " in record.message and "\n" not in record.message
    assert [folder.name for folder in checkpoint_folders(root)] == ["step-0000008", "step-0000006"][
        : 1 + (broken == "old")
    ]


def test_the_newest_are_kept_and_latest_names_the_last(crashes: Runs) -> None:
    checkpoints = crashes.folder("crashed").checkpoints
    assert {path.name for path in checkpoints.iterdir() if path.is_dir()} == {"step-0000006", "step-0000008"}
    assert (checkpoints / "latest").read_text() == "step-0000008\n"
    assert newest_checkpoint(checkpoints / "nowhere") is None


def test_the_manifest_lists_every_file_and_who_wrote_them(stages: Runs) -> None:
    for name, stage, precision in (("zero1-bf16", 1, "bf16"), ("zero3-fp32", 3, "fp32")):
        [folder] = stages.folder(name).checkpoints.glob("step-*")
        manifest = json.loads((folder / "manifest.json").read_text())
        assert set(manifest["files"]) | {"manifest.json"} == {path.name for path in folder.iterdir()}
        assert manifest["files"]["rng-rank-00001.pt"]["rank"] == 1
        checkpoint = read_checkpoint(folder)
        layout = Layout(2, stage, precision, decay_embeddings=False, decay_norms=True)
        assert (checkpoint.step, checkpoint.layout) == (8, layout)
        assert checkpoint.trainer_state()["tokens"] == 8 * 8 * 48


def test_deepspeeds_own_tools_read_our_checkpoints(stages: Runs) -> None:
    root = stages.folder("zero2-bf16").checkpoints
    weights = get_fp32_state_dict_from_zero_checkpoint(str(root), tag=(root / "latest").read_text().strip())
    assert "layers.1.positions.gate.weight" in weights
