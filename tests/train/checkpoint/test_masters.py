"""The weights of a checkpoint are read without ranks, whatever its ZeRO stage, precision and number of ranks."""

import os
import shutil
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

from model.weights import parameter_shapes
from tests.train.conftest import RESUMED, ROUTES, Runs, flip_a_bit
from tests.train.tiny import tiny
from train.checkpoint import masters
from train.checkpoint.masters import read_masters
from train.checkpoint.store import Checkpoint, checkpoint_folders, newest_checkpoint, read_checkpoint
from train.checkpoint.universal import make_universal, open_universal
from train.errors import TrainError


def newest(runs: Runs, name: str) -> Checkpoint:
    found = newest_checkpoint(runs.folder(name).checkpoints)
    assert found is not None
    return found


@pytest.mark.parametrize("name", sorted(RESUMED.keys() - {"zero1-bf16"}))  # DeepSpeed's tool cannot read that one
def test_the_weights_of_two_ranks_are_those_that_deepspeed_finds(stages: Runs, name: str) -> None:
    check_against_deepspeed(newest(stages, name))


def test_the_weights_are_those_of_the_universal_form(stages: Runs, tmp_path: Path) -> None:
    folder = newest(stages, "zero1-bf16").folder
    copy = read_checkpoint(Path(shutil.copytree(folder, tmp_path / folder.name)))
    make_universal(copy)
    values, universal = read_masters(copy), open_universal(copy)
    for name, read in values.items():
        assert torch.equal(read(), universal.weight(name).view(read().shape)), name


def test_the_weights_of_one_rank_are_those_that_deepspeed_finds(routes: Runs) -> None:
    stages = set()
    for route in ROUTES:
        for folder in checkpoint_folders(routes.folder(route).checkpoints):
            checkpoint = read_checkpoint(folder)
            if checkpoint.layout.zero_stage and (checkpoint.layout.zero_stage, checkpoint.layout.precision) != (
                1,
                "bf16",
            ):
                stages.add(checkpoint.layout.zero_stage)
                check_against_deepspeed(checkpoint)
    assert stages


def check_against_deepspeed(checkpoint: Checkpoint) -> None:
    masters = read_masters(checkpoint)
    expected = get_fp32_state_dict_from_zero_checkpoint(str(checkpoint.folder.parent), tag=checkpoint.folder.name)
    assert masters.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(masters[name](), value), name


def test_zero_0_has_its_weights_whole(stages: Runs) -> None:
    masters, config = read_masters(newest(stages, "zero0")), tiny(Path())
    shapes = parameter_shapes(config.model, config.positions)
    assert {name: tuple(read().shape) for name, read in masters.items()} == shapes


def test_a_damaged_checkpoint_is_named(stages: Runs, tmp_path: Path) -> None:
    whole = newest(stages, "zero2-fp32")
    folder = Path(shutil.copytree(whole.folder, tmp_path / whole.folder.name))
    flip_a_bit(next(folder.glob("*rank_1*optim_states.pt")))
    with pytest.raises(TrainError, match=r"step-\d+ is damaged \(.*rank_1.* is altered\): take another"):
        read_masters(read_checkpoint(folder))


class Stranger:
    """Makes a folder when it is read."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self._folder),)


def test_nothing_that_a_checkpoint_holds_is_run_when_its_weights_are_read(tmp_path: Path) -> None:
    held = {"a": Stranger(tmp_path / "made"), "weight": torch.arange(3.0), "names": OrderedDict(x=1)}
    torch.save(held, tmp_path / "state.pt")
    read = masters._load(tmp_path / "state.pt")
    assert torch.equal(read["weight"], torch.arange(3.0)) and read["names"] == {"x": 1}
    assert not (tmp_path / "made").exists()
    torch.load(tmp_path / "state.pt", weights_only=False)  # the same by torch alone
    assert (tmp_path / "made").exists()
