"""A save is published whole or fails alike on every rank, at once or in the background."""

import errno
import os
import re
import resource
from dataclasses import dataclass
from pathlib import Path

import pytest

from model.weights import random_weights
from tests.distributed import run_ranks
from tests.train.conftest import Runs
from tests.train.probe import events, metrics
from tests.train.tiny import tiny
from train.checkpoint.save import Saver, Writer
from train.checkpoint.store import Layout, newest_checkpoint, read_checkpoint
from train.distributed import Ranks
from train.engine.build import build_engine
from train.errors import SaveError

pytestmark = pytest.mark.system

LIMIT = 20_000  # bytes that a file of the second rank may have
UNLIMITED = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)


@dataclass
class Saves:
    """What one rank saw."""

    problems: list[str]
    after_failure: list[str]
    while_pending: list[int]  # the newest step of all that there is
    folders: list[str]


def entries(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir())


def save_and_fail(ranks: Ranks, root: Path) -> Saves:
    """Step 1 is saved; step 2 fails on one rank, at once and in the background; steps 3 and 4 are saved."""
    config = tiny(root, engine__zero_stage=1)
    engine = build_engine(config, ranks, random_weights(config.model, config.positions, config.seed))
    layout = Layout.of(config, ranks.world_size, engine.precision)
    saves = Saves([], [], [], [])
    for background in (False, True):
        config.checkpoint.background = background
        saver = Saver(root / "checkpoints", config.checkpoint, layout, ranks)

        def save(step: int, saver: Saver = saver) -> str | None:
            saver.begin(step, engine, {"step": step})
            folder = saver.finish(wait=True)
            return None if folder is None else folder.name

        saves.folders.append(str(save(1)))
        if ranks.rank == 1:  # a file that cannot grow stands for a disk that is full
            resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT, resource.RLIM_INFINITY))
        with pytest.raises(SaveError) as caught:
            save(2)
        resource.setrlimit(resource.RLIMIT_FSIZE, UNLIMITED)
        saves.problems.append(str(caught.value))
        saves.after_failure += entries(root / "checkpoints")
        saves.folders.append(str(save(3)))
    saver.begin(4, engine, {"step": 4})
    newest = newest_checkpoint(root / "checkpoints")
    saves.while_pending.append(newest.step if newest else 0)
    published = saver.finish(wait=True)
    assert published is not None
    saves.folders.append(published.name)
    engine.close()
    return saves


@pytest.fixture(scope="module")
def saves(tmp_path_factory: pytest.TempPathFactory) -> list[Saves]:
    return run_ranks(save_and_fail, 2, tmp_path_factory.mktemp("saves"))


def test_a_full_disk_on_one_rank_is_the_same_error_on_all(saves: list[Saves]) -> None:
    for rank in saves:
        for problem in rank.problems:
            assert problem.startswith("the checkpoint of step 2 could not be written (rank 1, ")
            assert os.strerror(errno.EFBIG) in problem and "\n" not in problem


def test_a_failed_save_leaves_nothing_and_the_checkpoints_before_it(saves: list[Saves]) -> None:
    first = ["latest", "step-0000001"]
    assert saves[0].after_failure == [*first, *first, "step-0000003"]


def test_a_failed_save_says_how_much_space_it_takes(saves: list[Saves]) -> None:
    for problem in saves[1].problems:
        assert re.search(
            r"free disk space \(the last one has \d+\.\d+ GB, \d+\.\d+ GB are free, \d+ are kept\)", problem
        )


class TooLarge:
    """State that there is no memory to copy."""

    def __reduce__(self) -> tuple[()]:
        raise MemoryError


@pytest.mark.parametrize("background", [False, True])
def test_memory_that_does_not_suffice_for_a_save_is_a_problem_of_its_own(tmp_path: Path, background: bool) -> None:
    writer = Writer(0, background)
    writer.add(TooLarge(), tmp_path / "large.pt")
    writer.add({"step": 1}, tmp_path / "small.pt")
    assert writer.result()[1] == "large.pt: not enough host memory"


def test_after_a_failed_save_the_next_one_succeeds(saves: list[Saves]) -> None:
    for rank in saves:
        assert rank.folders == ["step-0000001", "step-0000003"] * 2 + ["step-0000004"]


def test_a_kill_before_a_pending_save_is_finished_would_leave_the_one_before_it(saves: list[Saves]) -> None:
    assert [rank.while_pending for rank in saves] == [[3], [3]]


def test_saving_in_the_background_writes_the_same_files(crashes: Runs, stages: Runs) -> None:
    assert crashes.outcomes["behind"][0].reason == "finished"
    assert metrics(crashes.root, "behind") == metrics(stages.root, "zero2-fp32")
    at_once, behind = (newest_checkpoint(crashes.folder(name).checkpoints) for name in ("crashed", "behind"))
    assert at_once is not None and behind is not None and behind.step == 8
    digests = [
        {name: record.digest for name, record in checkpoint.files.items() if name.endswith("optim_states.pt")}
        for checkpoint in (at_once, behind)
    ]
    assert digests[0] == digests[1] and len(digests[0]) == 2


def test_what_is_left_of_a_save_says_nothing_of_the_time_that_the_last_one_needs(crashes: Runs) -> None:
    learned = crashes.outcomes["behind"][0].learned
    assert [place for place in learned if "checkpoint" in place] == ["saving a checkpoint"]


def test_saving_in_the_background_publishes_every_save_with_its_own_step(crashes: Runs) -> None:
    saved = [event for event in events(crashes.root, "behind") if event["event"] == "checkpoint"]
    assert [event["step"] for event in saved] == [2, 4, 6, 8]
    for event in saved[-2:]:
        folder = crashes.folder("behind").checkpoints / event["folder"]
        state = read_checkpoint(folder).trainer_state()
        assert state["step"] == event["step"] and state["callbacks"]["probe"]["steps"] == event["step"]
