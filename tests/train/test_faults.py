"""What goes wrong inside a run, on two real ranks: bad numbers, lost data, slow steps, stops in saves."""

import math
import multiprocessing
import os
import re
import shutil
import signal
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from model.loss import LossSums
from tests.distributed import run_ranks
from tests.train.callbacks.wandb_files import finished_runs
from tests.train.probe import events, metrics
from tests.train.tiny import tiny, write_tokenizer, write_tokens
from train.__main__ import train
from train.callbacks.callback import Callback, TrainerInterface
from train.callbacks.config import WandbMode
from train.callbacks.slow_steps import SlowSteps
from train.checkpoint.store import newest_checkpoint
from train.config import RunConfig
from train.distributed import Ranks
from train.errors import EXIT_DATA, EXIT_OK, EXIT_STOPPED, BadNumbersError, CollectiveError, LostDataError
from train.run_folder import RunFolder
from train.trainer import Trainer

pytestmark = pytest.mark.system

NUM_STEPS, SPIKE_STEP, STOP_STEP = 13, 12, 10
GUARDED = {"guard__loss": 8.0, "guard__grad_norm": 8.0, "guard__window": 8, "max_steps": NUM_STEPS}
# Every step is a reading of the position watch, and all that reports is on.
EVERYTHING_ON = {"position_watch__interval": 1, "wandb__mode": WandbMode.offline, "logging__report_seconds": 3600.0}
UNREAD = {"position_watch__interval": 1000}
BAD_STEP, SLOW_STEP, LAST_GOOD_STEP = 3, 33, 3
SLOW_SECONDS = 1e6  # more than reading data can take


class SpikeOf(Callback):
    """Multiplies the loss of one step."""

    def __init__(self, factor: float) -> None:
        self._factor = factor
        self._hook: Any = None

    def on_step_start(self, trainer: TrainerInterface) -> None:
        if trainer.step == SPIKE_STEP:
            self._hook = trainer.engine.model.register_forward_hook(self._spike)

    def on_update(self, trainer: TrainerInterface) -> None:
        if trainer.step == SPIKE_STEP:
            self._hook.remove()

    def _spike(self, module: Any, inputs: Any, sums: LossSums) -> LossSums:
        return sums._replace(total=sums.total * self._factor, ce=sums.ce * self._factor, z=sums.z * self._factor)


class Diverge(Callback):
    """Makes the loss of every step from one on NaN."""

    def on_step_start(self, trainer: TrainerInterface) -> None:
        if trainer.step == LAST_GOOD_STEP + 2:
            trainer.engine.model.register_forward_hook(lambda *seen: seen[2]._replace(total=seen[2].total * math.nan))


class StopAfter(Callback):
    """Sends a signal to one rank when a step is done; with `evaluating`, while a long callback is under way."""

    def __init__(self, step: int, number: signal.Signals, *, evaluating: bool = False) -> None:
        self._step, self._number, self._evaluating = step, number, evaluating

    def on_step_end(self, trainer: TrainerInterface) -> None:
        if trainer.step != self._step:
            return
        if trainer.ranks.rank == 1:
            os.kill(os.getpid(), self._number)
        deadline = time.monotonic() + 600
        while self._evaluating and not trainer.stop_requested():
            assert time.monotonic() < deadline
            time.sleep(0.01)


class StopInSave(Callback):
    """A signal from within a save, when the new checkpoint is there and the old ones are not yet gone."""

    def on_checkpoint(self, trainer: TrainerInterface, folder: str) -> None:
        if trainer.ranks.rank == 1:
            os.kill(os.getpid(), signal.SIGUSR1)


class DamagedMoment(Callback):
    """A NaN in the optimizer's state of one rank, as a memory error could cause."""

    def on_update(self, trainer: TrainerInterface) -> None:
        if trainer.step == BAD_STEP and trainer.ranks.rank == 1:
            optimizer = trainer.engine._engine.optimizer.optimizer
            next(iter(optimizer.state.values()))["exp_avg"][0] = math.nan


class SlowRank(Callback):
    """One rank that is slow in one step, by a clock of its own, on which every other step takes a second."""

    def __init__(self) -> None:
        self._now = 0.0

    def on_start(self, trainer: TrainerInterface) -> None:
        assert isinstance(trainer, Trainer)
        [slow_steps] = [callback for callback in trainer.callbacks._callbacks if isinstance(callback, SlowSteps)]
        slow_steps._clock = trainer.engine._forward._clock = lambda: self._now
        trainer.engine.model.register_forward_hook(partial(self._work, trainer))

    def _work(self, trainer: TrainerInterface, *seen: Any) -> None:
        self._now += SLOW_SECONDS if (trainer.step, trainer.ranks.rank) == (SLOW_STEP, 1) else 1.0


class LoseData(Callback):
    """Takes the data away while the run reads it."""

    def on_step_end(self, trainer: TrainerInterface) -> None:
        if trainer.step == BAD_STEP and trainer.ranks.is_main:
            root = Path(trainer.config.data.root)
            root.rename(root.with_name("gone"))
        trainer.ranks.barrier()


class KillWorker(Callback):
    """Ends the data worker of one rank, and what it has sent so far lasts for some steps."""

    def on_step_end(self, trainer: TrainerInterface) -> None:
        if trainer.step == BAD_STEP and trainer.ranks.rank == 1:
            [worker] = multiprocessing.active_children()
            worker.kill()


@dataclass
class Seen:
    """How one start of a run ended on one rank."""

    code: int | None = None
    error: CollectiveError | None = None


def start(config: RunConfig, ranks: Ranks, *callbacks: Callback) -> Seen:
    torch.manual_seed(1)
    seen = Seen()
    try:
        seen.code = train(config, ranks, callbacks)
    except CollectiveError as error:
        seen.error = error
    ranks.barrier()
    return seen


def all_runs(ranks: Ranks, root: Path) -> dict[str, Seen]:
    seen = {}
    guarded = tiny(root, name="guarded", **GUARDED)
    seen["guarded"] = start(guarded, ranks, SpikeOf(50.0))
    stopped = tiny(root, name="guarded-stopped", **GUARDED)
    seen["guarded-stopped"] = start(stopped, ranks, SpikeOf(50.0), StopAfter(STOP_STEP, signal.SIGUSR1))
    seen["guarded-stopped/again"] = start(stopped, ranks, SpikeOf(50.0))
    seen["unguarded"] = start(tiny(root, name="unguarded", max_steps=NUM_STEPS), ranks, SpikeOf(50.0))
    seen["bad moment"] = start(tiny(root, name="bad-moment", checkpoint__interval=2), ranks, DamagedMoment())
    rotating = {"checkpoint__interval": 1, "checkpoint__keep": 2, "engine__max_skipped_updates": 4}
    seen["diverging"] = start(tiny(root, name="diverging", **rotating), ranks, Diverge())
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        evaluating = StopAfter(BAD_STEP, number, evaluating=True)
        seen[number.name] = start(tiny(root, name=number.name), ranks, evaluating)
    seen["in-save"] = start(tiny(root, name="in-save", checkpoint__interval=4), ranks, StopInSave())
    slow = tiny(root, name="slow", max_steps=40, watchdog__slow_step_factor=4.0, **UNREAD)
    seen["slow"] = start(slow, ranks, SlowRank())
    many = {"data__root": str(root / "many"), "data__file_list": str(root / "many/files.txt")}
    lost = tiny(
        root, name="lost", **many, **EVERYTHING_ON, position_watch__probe_tokenizer=str(root / "tokenizer.json")
    )
    seen["lost"] = start(lost, ranks, LoseData())
    if ranks.is_main:
        shutil.copytree(root / "runs/lost", root / "runs/lost-first")
        (root / "gone").rename(root / "many")
    ranks.barrier()
    seen["lost/again"] = start(lost, ranks)
    worker = tiny(root, name="worker", data__num_workers=1, max_steps=400, **UNREAD)
    seen["worker"] = start(worker, ranks, KillWorker())
    return seen


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("faults")
    write_tokens(root / "tokens")
    write_tokens(root / "many", num_files=30)
    write_tokenizer(root / "tokenizer.json")
    return root


@pytest.fixture(scope="module")
def seen(root: Path) -> list[dict[str, Seen]]:
    return run_ranks(all_runs, 2, root)


def kinds(root: Path, name: str) -> list[tuple[str, int]]:
    return [(event["event"], event["step"]) for event in events(root, name)]


def test_a_spike_is_not_applied_and_training_goes_on(root: Path, seen: list[dict[str, Seen]]) -> None:
    rows = metrics(root, "guarded")
    assert [row["optim/skipped"] for row in rows] == [0] * (SPIKE_STEP - 1) + [1] * (NUM_STEPS - SPIKE_STEP + 1)
    [skip] = [event for event in events(root, "guarded") if event["event"] == "skip"]
    assert skip["step"] == SPIKE_STEP
    assert skip["reason"].startswith("loss ") and "; gradient norm " in skip["reason"]
    assert rows[SPIKE_STEP - 1]["train/loss"] > 20 * rows[SPIKE_STEP - 2]["train/loss"]
    dropped, applied = rows[SPIKE_STEP], metrics(root, "unguarded")[SPIKE_STEP]
    assert dropped["optim/skipped"] == 1 and applied["optim/skipped"] == 0
    assert metrics(root, "unguarded")[: SPIKE_STEP - 1] == rows[: SPIKE_STEP - 1]  # until then it changes nothing
    assert applied["train/loss"] != dropped["train/loss"]


def test_the_window_of_the_guard_is_kept_over_a_stop(root: Path, seen: list[dict[str, Seen]]) -> None:
    assert [rank["guarded-stopped"].code for rank in seen] == [EXIT_STOPPED] * 2
    assert metrics(root, "guarded-stopped") == metrics(root, "guarded")


def test_weights_that_are_not_finite_are_never_published(root: Path, seen: list[dict[str, Seen]]) -> None:
    for rank in seen:
        assert isinstance(rank["bad moment"].error, BadNumbersError)
        assert "not finite after step 4, and were not saved" in str(rank["bad moment"].error)
    newest = newest_checkpoint(RunFolder(root / "runs/bad-moment").checkpoints)
    assert newest is not None and newest.step == 2
    assert kinds(root, "bad-moment") == [("start", 0), ("checkpoint", 2), ("stop", 4)]


def test_dropped_updates_push_out_no_checkpoint_that_is_known_to_be_good(
    root: Path, seen: list[dict[str, Seen]]
) -> None:
    checkpoints = RunFolder(root / "runs/diverging").checkpoints
    assert sorted(path.name for path in checkpoints.glob("step-*")) == ["step-0000003", "step-0000006", "step-0000007"]
    for rank in seen:  # step 4 made the weights whose first gradient was not finite
        assert isinstance(rank["diverging"].error, BadNumbersError)
        advice = f"known to be good is step-000000{LAST_GOOD_STEP}: delete the later ones and run it again with a lower"
        assert advice in str(rank["diverging"].error)


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGUSR1"])
def test_a_signal_during_an_evaluation_saves_that_step(root: Path, seen: list[dict[str, Seen]], name: str) -> None:
    assert [rank[name].code for rank in seen] == [EXIT_STOPPED] * 2
    assert kinds(root, name) == [("start", 0), ("checkpoint", BAD_STEP), ("stop", BAD_STEP)]


def test_a_signal_during_a_save_stops_after_it(root: Path, seen: list[dict[str, Seen]]) -> None:
    assert [rank["in-save"].code for rank in seen] == [EXIT_STOPPED] * 2
    assert kinds(root, "in-save") == [("start", 0), ("checkpoint", 4), ("stop", 4)]


def test_lost_data_is_one_sentence_a_checkpoint_and_a_code_of_its_own(root: Path, seen: list[dict[str, Seen]]) -> None:
    first, second = (rank["lost"].error for rank in seen)
    assert isinstance(first, LostDataError) and isinstance(second, LostDataError)
    assert str(first) == str(second) and first.reason.exit_code == EXIT_DATA
    lost = next(event for event in events(root, "lost") if event["event"] == "stop")
    step = lost["step"]
    assert step >= BAD_STEP and (lost["reason"], lost["detail"]) == ("data_lost", str(first))
    assert lost["exit_code"] == EXIT_DATA
    assert " is gone; put it back, or mount what it lay on" in str(first)
    assert str(first).endswith(f"what was trained, up to step {step}, is saved")
    assert [rank["lost/again"].code for rank in seen] == [EXIT_OK] * 2
    assert ("resume", step) in kinds(root, "lost")
    assert [row["step"] for row in metrics(root, "lost")] == list(range(1, 9))


def test_data_lost_at_a_reading_of_the_position_watch_stops_every_callback(
    root: Path, seen: list[dict[str, Seen]]
) -> None:
    folder = RunFolder(root / "runs/lost-first")
    assert (folder.last_event() or {})["exit_code"] == EXIT_DATA
    step = folder.read_events()[-1]["step"]
    assert f"stopped after step {step} of 8: data_lost" in folder.report.read_text()
    assert folder.probe(step).exists()  # the model is probed at a stop: the reading must not count that
    [run] = finished_runs(folder.wandb)
    assert [row["_step"] for row in run.rows][-1] == step


def test_a_killed_data_worker_is_one_sentence_a_checkpoint_and_the_same_code(
    root: Path, seen: list[dict[str, Seen]]
) -> None:
    stop = events(root, "worker")[-1]
    assert (stop["event"], stop["exit_code"]) == ("stop", EXIT_DATA) and BAD_STEP <= stop["step"] < 400
    assert kinds(root, "worker") == [("start", 0), ("checkpoint", stop["step"]), ("stop", stop["step"])]
    for rank in seen:
        assert isinstance(rank["worker"].error, LostDataError) and str(rank["worker"].error) == stop["detail"]
    assert re.match(r"data worker 0 of 1 \(process \d+\) was ended by SIGKILL: look for a lack of mem", stop["detail"])


def test_a_slow_step_is_logged_with_the_rank_that_caused_it(root: Path, seen: list[dict[str, Seen]]) -> None:
    logged = [event for event in events(root, "slow") if event["event"] == "slow_step"]
    [slow] = logged
    assert (slow["step"], slow["rank"], slow["seconds"], slow["usual"]) == (SLOW_STEP, 1, SLOW_SECONDS, 1.0)
    assert slow["own_seconds"] >= SLOW_SECONDS > slow["own_seconds_of_others"]  # and the data, by the real clock
