"""A run goes on from one checkpoint with any number of ranks, ZeRO stage and precision, as if nothing had happened."""

import resource
import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor

from model.weights import parameter_shapes
from tests.train.checkpoint.test_store import killed_at
from tests.train.conftest import NUM_STEPS, ROUTES, Runs, flip_a_bit
from tests.train.probe import metrics
from tests.train.tiny import tiny
from train.checkpoint.manifest import find_damage, read_manifest
from train.checkpoint.store import Checkpoint, read_checkpoint
from train.checkpoint.universal import is_universal, make_universal, open_universal
from train.engine.engine import MOMENTS
from train.errors import TrainError

UNDISTURBED = {"travelled-fp32": "zero1-fp32", "travelled-bf16": "zero2-bf16"}
NOISE = {"travelled-fp32": 5e-6, "travelled-bf16": 5e-3}


def last(runs: Runs, name: str, to: Path) -> Checkpoint:
    """A copy of a run's last checkpoint."""
    folder = runs.folder(name).checkpoints / f"step-{NUM_STEPS:07d}"
    return read_checkpoint(Path(shutil.copytree(folder, to / name / folder.name)))


def tensors(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """The optimizer's state and the masters, flat, by parameter and kind."""
    if not is_universal(checkpoint):
        make_universal(checkpoint)
    config = tiny(Path())
    universal = open_universal(checkpoint)
    found = {}
    for name in parameter_shapes(config.model, config.positions):
        found[f"{name} fp32"] = universal.weight(name).flatten()
        found |= {f"{name} {key}": universal.moment(name, key).flatten() for key in MOMENTS}
    return found


@pytest.mark.parametrize("route", ROUTES)
def test_a_route_over_ranks_and_stages_gives_the_undisturbed_run(routes: Runs, stages: Runs, route: str) -> None:
    there, undisturbed = metrics(routes.root, route), metrics(stages.root, UNDISTURBED[route])
    assert [row["step"] for row in there] == list(range(1, NUM_STEPS + 1))
    for row, expected in zip(there, undisturbed, strict=True):
        assert row["tokens"] == expected["tokens"]
        for name in ("train/loss", "train/ce_loss", "train/z_loss"):
            assert row[name] == pytest.approx(expected[name], abs=NOISE[route])


def test_a_route_reads_the_same_rows_and_keeps_the_callbacks_state(routes: Runs, stages: Runs) -> None:
    for name, segments in ROUTES.items():
        for world_size, step, *_ in segments:
            outcomes = routes.outcomes[f"{name}/{step}"]
            assert len(outcomes) == world_size
            assert {(outcome.reason, outcome.steps) for outcome in outcomes} == {("finished", step)}
    expected = [row for rank in stages.outcomes["zero1-fp32"] for row in rank.rows[NUM_STEPS - 1]]
    found = [row for rank in routes.outcomes["travelled-fp32/8"] for row in rank.rows[0]]
    assert [list(row) for row in found] == [list(row) for row in expected]


def test_a_route_ends_with_the_optimizer_state_of_the_undisturbed_run(
    routes: Runs, stages: Runs, tmp_path: Path
) -> None:
    there, undisturbed = last(routes, "travelled-fp32", tmp_path), last(stages, "zero1-fp32", tmp_path)
    found, expected = tensors(there), tensors(undisturbed)
    assert len(found) == 3 * 28
    for name, value in expected.items():
        error = (found[name] - value).norm() / value.norm()
        assert error < (1e-5 if name.endswith("fp32") else 1e-3), name
    assert open_universal(there).num_updates == open_universal(undisturbed).num_updates == NUM_STEPS


@pytest.mark.parametrize("name", ["zero0", "zero1-bf16", "zero2-fp32", "zero3-bf16"])
def test_the_universal_form_holds_the_state_of_every_stage(stages: Runs, tmp_path: Path, name: str) -> None:
    checkpoint = last(stages, name, tmp_path)
    found = tensors(checkpoint)
    assert all(value.dtype == torch.float32 and value.isfinite().all() for value in found.values())
    expected = tensors(last(stages, "zero1-fp32", tmp_path))
    for key, value in expected.items():
        assert (found[key] - value).norm() / value.norm() < (0.1 if name.endswith("bf16") else 1e-3), key


def test_a_conversion_that_was_killed_is_made_again_by_the_next_start(stages: Runs, tmp_path: Path) -> None:
    checkpoint = last(stages, "zero2-fp32", tmp_path)
    for number in (3, 60, 300, 650, 900):
        assert killed_at(number, lambda: make_universal(checkpoint))
        assert not is_universal(checkpoint)
        assert find_damage(checkpoint.folder, checkpoint.files.items()) is None
    make_universal(checkpoint)
    assert {path.name for path in checkpoint.folder.iterdir() if path.is_dir()} == {"universal"}
    fields, files = read_manifest(checkpoint.folder / "universal")
    assert fields["num_updates"] == NUM_STEPS and len(files) >= 3 * 28


def test_a_conversion_is_reused_and_a_damaged_one_made_again(stages: Runs, tmp_path: Path) -> None:
    checkpoint = last(stages, "zero3-fp32", tmp_path)
    make_universal(checkpoint)
    assert is_universal(checkpoint)
    flip_a_bit(checkpoint.folder / "universal" / "zero" / "lm_head.weight" / "exp_avg.pt")
    assert not is_universal(checkpoint)
    assert not (checkpoint.folder / "universal").exists()


def test_a_checkpoint_without_an_update_is_not_converted(refusals: Runs, tmp_path: Path) -> None:
    folder = next(refusals.folder("skipped").checkpoints.glob("step-*"))
    checkpoint = read_checkpoint(Path(shutil.copytree(folder, tmp_path / folder.name)))
    with pytest.raises(TrainError, match="holds no update, as all so far were skipped"):
        make_universal(checkpoint)
    assert not is_universal(checkpoint)


def test_a_conversion_that_does_not_fit_on_the_disk_is_one_line(stages: Runs, tmp_path: Path) -> None:
    checkpoint = last(stages, "zero1-fp32", tmp_path)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))  # a file that cannot grow stands for a full disk
    try:
        with pytest.raises(
            TrainError, match=r"could not be converted .*: free disk space for 24 bytes per parameter"
        ) as caught:
            make_universal(checkpoint)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "\n" not in str(caught.value)
    assert not [path for path in checkpoint.folder.iterdir() if path.is_dir()]
