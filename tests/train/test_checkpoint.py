"""Checkpoints are whole or absent, and one function decides what a run starts from."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

from tests.train.conftest import Runs
from tests.train.tiny import tiny
from train.checkpoint import Checkpoint, Start, check_resumable, choose_start, newest_checkpoint, read_checkpoint
from train.config import Precision, RunConfig
from train.errors import TrainError

OWN = Checkpoint(Path("own"), step=7, world_size=2, zero_stage=2, precision="fp32")


@pytest.fixture
def root(runs: Runs, tmp_path: Path) -> Path:
    """Checkpoints of steps 6 and 8, to be damaged."""
    return Path(shutil.copytree(runs.root / "runs" / "crashed" / "checkpoints", tmp_path / "checkpoints"))


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    """What `init_from` may name: a Hugging Face folder, a finished run, one that has not finished, something else."""
    for name in ("hugging-face", "finished/hf", "unfinished", "other"):
        (tmp_path / name).mkdir(parents=True)
    for name in (
        "hugging-face/config.json",
        "finished/hf/config.json",
        "finished/config.yaml",
        "unfinished/config.yaml",
    ):
        (tmp_path / name).touch()
    (tmp_path / "finished/hf/step").write_text("8\n")
    return tmp_path


@pytest.mark.parametrize(
    ("own", "init_from", "resume", "import_from"),
    [
        (None, None, None, None),
        (None, "hugging-face", None, "hugging-face"),
        (None, "finished", None, "finished/hf"),
        (OWN, None, OWN, None),
        (OWN, "hugging-face", OWN, None),
        (OWN, "absent", OWN, None),
    ],
)
def test_resume_outranks_init_from_and_that_random_weights(
    sources: Path, own: Checkpoint | None, init_from: str | None, resume: Checkpoint | None, import_from: str | None
) -> None:
    expected = Start(resume, sources / import_from if import_from else None)
    assert choose_start(own, str(sources / init_from) if init_from else None) == expected


@pytest.mark.parametrize(
    ("name", "complaint"), [("absent", "is absent"), ("unfinished", "has not finished"), ("other", "holds neither")]
)
def test_a_wrong_init_from_is_refused_in_a_sentence(sources: Path, name: str, complaint: str) -> None:
    with pytest.raises(TrainError, match=complaint) as caught:
        choose_start(None, str(sources / name))
    assert str(sources / name) in str(caught.value) and "\n" not in str(caught.value)


def largest_file(folder: Path) -> Path:
    return max(
        (path for path in folder.iterdir() if path.name != "manifest.json"), key=lambda path: path.stat().st_size
    )


def truncate(folder: Path) -> None:
    path = largest_file(folder)
    path.write_bytes(path.read_bytes()[:-1])


def lose_manifest(folder: Path) -> None:
    (folder / "manifest.json").unlink()


def tear_manifest(folder: Path) -> None:
    text = (folder / "manifest.json").read_text()
    (folder / "manifest.json").write_text(text[: len(text) // 2])


def lose_file(folder: Path) -> None:
    largest_file(folder).unlink()


@pytest.mark.parametrize("damage", [truncate, lose_manifest, tear_manifest, lose_file])
def test_a_torn_checkpoint_is_passed_over(root: Path, damage: Callable[[Path], None]) -> None:
    newest = newest_checkpoint(root)
    assert newest is not None and newest.step == 8
    damage(root / "step-0000008")
    assert read_checkpoint(root / "step-0000008") is None
    whole = newest_checkpoint(root)
    assert whole is not None and whole.step == 6


def test_what_a_killed_save_leaves_is_no_checkpoint(root: Path) -> None:
    shutil.copytree(root / "step-0000008", root / ".part-0000010")
    (root / "step-what").mkdir()
    newest = newest_checkpoint(root)
    assert newest is not None and newest.folder == root / "step-0000008"
    assert newest_checkpoint(root / "nowhere") is None


def test_the_newest_are_kept_and_latest_names_the_last(runs: Runs) -> None:
    checkpoints = runs.root / "runs" / "crashed" / "checkpoints"
    assert {path.name for path in checkpoints.iterdir() if path.is_dir()} == {"step-0000006", "step-0000008"}
    assert (checkpoints / "latest").read_text() == "step-0000008\n"


def test_the_manifest_lists_every_file_and_who_wrote_them(runs: Runs) -> None:
    for name, stage, precision in (("zero1-bf16", 1, "bf16"), ("zero3-fp32", 3, "fp32")):
        [folder] = (runs.root / "runs" / name / "checkpoints").glob("step-*")
        manifest = json.loads((folder / "manifest.json").read_text())
        assert set(manifest["files"]) | {"manifest.json"} == {path.name for path in folder.iterdir()}
        assert {"rng-rank-00000.pt", "rng-rank-00001.pt", "trainer.json"} < set(manifest["files"])
        checkpoint = read_checkpoint(folder)
        assert checkpoint == Checkpoint(folder, step=8, world_size=2, zero_stage=stage, precision=precision)
        assert checkpoint.trainer_state()["tokens"] == 8 * 8 * 48


def test_deepspeeds_own_tools_read_our_checkpoints(runs: Runs) -> None:
    root = runs.root / "runs" / "zero2-bf16" / "checkpoints"
    weights = get_fp32_state_dict_from_zero_checkpoint(str(root), tag=(root / "latest").read_text().strip())
    assert "layers.1.positions.gate.weight" in weights


@pytest.mark.parametrize(
    ("name", "saved", "current", "key"),
    [("other-stage", "2", "1", "engine.zero_stage"), ("other-precision", "fp32", "bf16", "engine.precision")],
)
def test_another_stage_or_precision_is_refused_naming_both(
    runs: Runs, name: str, saved: str, current: str, key: str
) -> None:
    for rank in runs.two:
        complaint = f"was written with {key}={saved}, but this launch has {current}: resume with {key}={saved}"
        assert rank[name].reason.endswith(complaint)


def test_another_number_of_processes_is_refused_naming_both(runs: Runs) -> None:
    complaint = "was written with launch.processes=2, but this launch has 1: resume with launch.processes=2"
    assert runs.one["other-size"].reason.endswith(complaint)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"model__num_heads": 4}, "model.num_heads was 2 and is 4"),
        ({"positions__start_layer": 2, "global_batch_size": 16}, "positions.start_layer was 1 and is 2"),
        ({"sequence_length": 24}, "sequence_length was 48 and is 24"),
        ({"mask_documents": True}, "mask_documents was False and is True"),
    ],
)
def test_another_model_or_other_batches_are_another_run(root: Path, changes: dict[str, Any], complaint: str) -> None:
    checkpoint = newest_checkpoint(root)
    assert checkpoint is not None
    with pytest.raises(TrainError, match=complaint) as caught:
        check_resumable(checkpoint, tiny(root, **changes), world_size=2, precision=Precision.fp32)
    assert "\n" not in str(caught.value)


def test_what_changes_speed_or_length_alone_may_change_over_a_resume(root: Path) -> None:
    checkpoint = newest_checkpoint(root)
    assert checkpoint is not None
    changed: RunConfig = tiny(root, max_steps=100, micro_batch_size=1, model__activation_checkpointing=True)
    check_resumable(checkpoint, changed, world_size=2, precision=Precision.fp32)
