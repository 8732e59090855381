"""One function decides what a run starts from, and only a checkpoint whose every byte is right is gone on from."""

import errno
import json
import os
import pickle
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.distributed import run_ranks
from tests.train.conftest import NUM_STEPS, Runs, flip_a_bit
from tests.train.probe import events, metrics
from train.checkpoint import manifest
from train.checkpoint.generators import reseed_generators
from train.checkpoint.manifest import _digest_of, digest_file
from train.checkpoint.resume import Start, choose_start, find_checkpoint
from train.checkpoint.store import Checkpoint, Layout, corrupt_folders, drop_old
from train.distributed import Ranks
from train.errors import TrainError
from train.run_folder import RunFolder

OWN = Checkpoint(Path("own"), 7, Layout(2, 2, "fp32", decay_embeddings=False, decay_norms=True), {})


@pytest.fixture
def folder(crashes: Runs, tmp_path: Path) -> RunFolder:
    """A run of two ranks with checkpoints of steps 6 and 8, to be damaged."""
    return RunFolder(shutil.copytree(crashes.folder("crashed").path, tmp_path / "run"))


@pytest.mark.parametrize(
    ("own", "init_from", "expected"),
    [
        (None, None, Start()),
        (None, "a/folder", Start(import_from="a/folder")),
        (OWN, None, Start(resume=OWN)),
        (OWN, "a/folder", Start(resume=OWN)),
    ],
)
def test_resume_comes_before_init_from_and_that_before_random_weights(
    own: Checkpoint | None, init_from: str | None, expected: Start
) -> None:
    assert choose_start(own, init_from) == expected


def largest_file(folder: Path) -> Path:
    return max(folder.glob("*.pt"), key=lambda path: path.stat().st_size)


def truncate(folder: Path) -> None:
    path = largest_file(folder)
    path.write_bytes(path.read_bytes()[:-1])


def lose_file(folder: Path) -> None:
    largest_file(folder).unlink()


def alter_weights(folder: Path) -> None:
    flip_a_bit(largest_file(folder))


def alter_generators(folder: Path) -> None:
    flip_a_bit(folder / "rng-rank-00001.pt")


def alter_trainer_state(folder: Path) -> None:
    path = folder / "trainer.json"
    path.write_text(path.read_text().replace('"tokens": 3', '"tokens": 4', 1))


def lose_manifest(folder: Path) -> None:
    (folder / "manifest.json").unlink()


def truncate_manifest(folder: Path) -> None:
    text = (folder / "manifest.json").read_text()
    (folder / "manifest.json").write_text(text[: len(text) // 2])


def alter_manifest(folder: Path) -> None:
    body = json.loads((folder / "manifest.json").read_text())
    body["layout"]["zero_stage"] = 3
    (folder / "manifest.json").write_text(json.dumps(body))


def sign(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the manifest, and give it the digest that its writer would have given it."""
    path = folder / "manifest.json"
    body = json.loads(path.read_text())
    del body["digest"]
    change(body)
    path.write_text(json.dumps({**body, "digest": _digest_of(body)}))


def empty(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


DAMAGES = {
    truncate: "has [0-9]+ bytes instead of [0-9]+",
    lose_file: "is missing",
    alter_weights: "is altered",
    alter_generators: "rng-rank-00001.pt is altered",
    alter_trainer_state: "trainer.json is altered",
    lose_manifest: "manifest.json is missing",
    truncate_manifest: "manifest.json is incomplete or damaged",
    alter_manifest: "manifest.json is altered",
    empty: "manifest.json is missing",
}


@pytest.mark.parametrize(("damage", "named"), DAMAGES.items())
def test_a_damaged_checkpoint_is_moved_aside_and_the_one_before_it_used(
    folder: RunFolder, damage: Callable[[Path], None], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    found = find_checkpoint(folder, Ranks())
    assert found is not None and found.step == 8
    damage(folder.checkpoints / "step-0000008")
    found = find_checkpoint(folder, Ranks())
    assert found is not None and found.step == 6
    assert (folder.checkpoints / "corrupt-step-0000008").is_dir()
    assert not (folder.checkpoints / "step-0000008").exists()
    [line] = capsys.readouterr().out.splitlines()
    event = folder.last_event() or {}
    assert (event["event"], event["step"], event["folder"]) == ("alert", 8, "corrupt-step-0000008")
    assert event["damage"] in line
    assert re.search(named, event["damage"])


VERSIONS: dict[str, Callable[[dict[str, Any]], None]] = {
    "another format": lambda body: body.update(format=2),
    "a layout with another field": lambda body: body["layout"].update(expert_parallel=2),
    "a layout without a field": lambda body: body["layout"].pop("decay_norms"),
    "no step": lambda body: body.pop("step"),
    "files with another field": lambda body: body["files"]["trainer.json"].update(mode=0o644),
}


@pytest.mark.parametrize("change", VERSIONS.values(), ids=VERSIONS)
def test_what_another_version_wrote_is_refused_and_left_where_it_is(
    folder: RunFolder, change: Callable[[dict[str, Any]], None]
) -> None:
    sign(folder.checkpoints / "step-0000008", change)
    before = sorted(folder.checkpoints.iterdir())
    with pytest.raises(TrainError, match="step-0000008 was written by another version") as caught:
        find_checkpoint(folder, Ranks())
    assert "\n" not in str(caught.value)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)  # the other ranks say the same
    drop_old(folder.checkpoints, keep=1, keep_every=None)
    assert sorted(folder.checkpoints.iterdir()) == before


def test_a_manifest_without_a_format_is_of_the_first(folder: RunFolder) -> None:
    sign(folder.checkpoints / "step-0000008", lambda body: body.pop("format"))
    found = find_checkpoint(folder, Ranks())
    assert found is not None and found.step == 8


@pytest.mark.parametrize(("code", "step"), [(errno.EIO, 6), (errno.EACCES, None)])
def test_a_manifest_on_bad_sectors_is_damaged_and_one_without_permission_is_not(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch, code: int, step: int | None
) -> None:
    read = Path.read_bytes

    def fail(path: Path) -> bytes:
        if path == folder.checkpoints / "step-0000008/manifest.json":
            raise OSError(code, os.strerror(code))
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", fail)
    if step is None:
        with pytest.raises(TrainError, match=r"cannot read .*manifest.json: .*; repair that, and start again"):
            find_checkpoint(folder, Ranks())
        assert corrupt_folders(folder.checkpoints) == []
    else:
        found = find_checkpoint(folder, Ranks())
        assert found is not None and found.step == step


def find_without_permission(ranks: Ranks, run: Path) -> str:
    """What this rank raises where the second one may not read."""

    def digest(path: Path) -> str:
        if ranks.rank == 1:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return digest_file(path)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(TrainError) as caught:
        patch.setattr(manifest, "digest_file", digest)
        find_checkpoint(RunFolder(run), ranks)
    return str(caught.value)


def test_what_one_rank_may_not_read_is_the_same_error_on_all_and_moves_nothing(folder: RunFolder) -> None:
    first, second = run_ranks(find_without_permission, 2, folder.path)
    assert first == second and first.startswith("cannot read ") and "Permission denied" in first
    assert corrupt_folders(folder.checkpoints) == []


@pytest.mark.parametrize("latest", [None, "", "step-0000099\n", "\x00\xff", "corrupt-step-0000008"])
def test_latest_is_for_people_and_decides_nothing(folder: RunFolder, latest: str | None) -> None:
    path = folder.checkpoints / "latest"
    path.unlink() if latest is None else path.write_text(latest)
    found = find_checkpoint(folder, Ranks())
    assert found is not None and found.step == 8


def test_where_all_are_damaged_nothing_is_begun_again_unless_they_are_deleted(folder: RunFolder) -> None:
    for damaged in folder.checkpoints.glob("step-*"):
        lose_file(damaged)
    for _ in range(2):  # nor at the second start, when nothing has the name of a checkpoint any more
        with pytest.raises(TrainError, match=r"no checkpoint of .* is whole, and 2 damaged: restore one") as caught:
            find_checkpoint(folder, Ranks())
        assert "\n" not in str(caught.value)
    shutil.rmtree(folder.checkpoints)
    assert find_checkpoint(folder, Ranks()) is None


def test_the_same_step_can_be_damaged_twice(folder: RunFolder) -> None:
    whole = shutil.copytree(folder.checkpoints / "step-0000008", folder.path / "copy")
    for _ in range(2):
        lose_manifest(folder.checkpoints / "step-0000008")
        find_checkpoint(folder, Ranks())
        shutil.copytree(whole, folder.checkpoints / "step-0000008")
    names = {path.name for path in folder.checkpoints.glob("corrupt-*")}
    assert names == {"corrupt-step-0000008", "corrupt-step-0000008-2"}


def test_a_copy_under_the_name_of_a_later_step_is_moved_aside(
    folder: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(folder.checkpoints / "step-0000006", folder.checkpoints / "step-0000100")
    assert [checkpoint.step for checkpoint in (find_checkpoint(folder, Ranks()),) if checkpoint] == [8]
    assert "step-0000100 is damaged (manifest.json is that of step 6): moved aside" in capsys.readouterr().out
    assert (folder.checkpoints / "corrupt-step-0000100").is_dir()


def test_what_kills_leave_and_people_put_there_is_no_checkpoint(folder: RunFolder) -> None:
    for name in (".part-step-0000010", ".old-step-0000009", "step-0000010.bak", "step-what", "my-step-0000011"):
        shutil.copytree(folder.checkpoints / "step-0000008", folder.checkpoints / name)
    found = find_checkpoint(folder, Ranks())
    assert found is not None and found.folder == folder.checkpoints / "step-0000008"
    assert not list(folder.checkpoints.glob("corrupt-*"))


def test_a_run_resumes_from_before_a_flipped_bit_and_repeats_the_lost_steps(crashes: Runs, stages: Runs) -> None:
    for rank in crashes.outcomes["damaged"]:
        assert rank.reason == "finished"
        assert len(rank.rows) == NUM_STEPS - 6
    assert metrics(crashes.root, "damaged") == metrics(stages.root, "zero2-fp32")
    [alert] = [event for event in events(crashes.root, "damaged") if event["event"] == "alert"]
    assert alert["damage"] == "zero_pp_rank_1_mp_rank_00_optim_states.pt is altered"


def test_a_run_whose_checkpoints_are_all_damaged_stops_on_every_rank(crashes: Runs) -> None:
    for rank in crashes.outcomes["all-damaged"]:
        assert rank.reason.startswith("no checkpoint of ")
        assert rank.rows == []


def test_a_run_that_goes_on_says_what_has_changed(routes: Runs) -> None:
    changes = [event for event in events(routes.root, "travelled-fp32") if event["event"] == "changes"]
    assert [event["step"] for event in changes] == [2, 4, 6, 7]
    assert changes[0]["changes"]["ranks"] == [2, 1]
    assert changes[0]["changes"]["micro_batch_size"] == [2, 4]
    assert changes[0]["changes"]["max_steps"] == [2, 4]
    assert changes[0]["changes"]["engine.zero_stage"] == [1, 2]
    assert "ranks" not in changes[2]["changes"]


def test_generators_of_new_ranks_follow_from_seed_step_and_rank() -> None:
    def draws(seed: int, step: int, rank: int) -> tuple[float, float, float]:
        reseed_generators(seed, step, rank)
        return random.random(), float(np.random.rand()), float(torch.rand(()))

    assert draws(5, 4, 1) == draws(5, 4, 1)
    assert len({draws(*numbers) for numbers in ((5, 4, 1), (5, 4, 0), (5, 3, 1), (6, 4, 1), (4, 5, 1))}) == 5
