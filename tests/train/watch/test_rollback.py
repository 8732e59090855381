"""Rollbacks in real runs on two ranks: to a checkpoint from before the failure, once, whatever is killed meanwhile."""

import weakref
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

import train.__main__
from common.json_lines import read_json_lines
from report.page_data import read_run
from tests.distributed import run_ranks
from tests.train.callbacks.wandb_files import finished_runs
from tests.train.checkpoint.test_store import killed_at
from tests.train.probe import CrashError, Outcome, Probe, events, metrics
from tests.train.tiny import tiny, write_tokens
from tests.train.watch.failing import Breaking, scale_final
from train.callbacks.callback import Callback
from train.callbacks.config import WandbMode
from train.checkpoint.rollback import (
    Rollback,
    choose_step,
    complete_rollback,
    rate_factor,
    read_rollbacks,
    record_rollback,
)
from train.checkpoint.store import corrupt_folders, folder_name
from train.config import RunConfig
from train.distributed import Ranks
from train.engine.build import build_engine
from train.engine.engine import Engine
from train.errors import EXIT_ALERTED, EXIT_OK, EXIT_STOPPED, TrainError
from train.run_folder import RunFolder
from train.watch.alert import Alert
from train.watch.config import AlertPolicy, PositionWatchConfig

pytestmark = pytest.mark.system

NUM_STEPS, BREAKS, ALERTS, SAVES = 16, 9, 12, 4
SETTINGS = {
    "model__num_layers": 3,
    "max_steps": NUM_STEPS,
    "checkpoint__interval": SAVES,
    "position_watch__interval": 2,
    "position_watch__policy": AlertPolicy.rollback,
    "position_watch__rollback_warmup_steps": 4,
}
READ = "positions/layer_01/final_update_ratio"
ALERT = Alert("alert", "collapse", "layer 1", 10, "layer 1: since step 10, positions are nearly equal")


def breaking(step: int = BREAKS, times: int = 1) -> Breaking:
    return Breaking(scale_final(1e3), range(step, step + 1), times=times)


def crashing(step: int) -> Probe:
    return Probe(Outcome(), stop_rank=None, stop_step=0, crash_step=step)


class Builder:
    """Builds engines, and counts which of those before are still in memory."""

    def __init__(self) -> None:
        self._engines: list[weakref.ref[Engine]] = []
        self.num_left: list[int] = []

    def __call__(self, *arguments: Any) -> Engine:
        self.num_left.append(sum(engine() is not None for engine in self._engines))
        engine = build_engine(*arguments)
        self._engines.append(weakref.ref(engine))
        return engine


def stopping(step: int) -> Probe:
    return Probe(Outcome(), stop_rank=1, stop_step=step, crash_step=0)


def start(config: RunConfig, ranks: Ranks, *callbacks: Callback) -> int | str:
    """The exit code of one start of a run, or what it crashed with."""
    try:
        return train.__main__.train(config, ranks, callbacks)
    except CrashError as error:
        return str(error)
    finally:
        ranks.barrier()


def without_records(config: RunConfig, ranks: Ranks) -> RunConfig:
    """The same run, whose records of rollbacks only checkpoints hold."""
    if ranks.is_main:
        (RunFolder.of(config).checkpoints / "rollbacks.json").unlink()
    ranks.barrier()
    return config


def on_two_ranks(ranks: Ranks, root: Path) -> dict[str, list[int | str]]:
    rolled = tiny(root, name="rolled", wandb__mode=WandbMode.offline, **SETTINGS)
    crashed = tiny(root, name="crashed", **SETTINGS)
    once = {"engine__zero_stage": 3, "position_watch__max_rollbacks": 1}
    twice = tiny(root, name="twice", **{**SETTINGS, **once})
    builder = Builder()
    with mock.patch.object(train.__main__, "build_engine", builder):
        codes = [start(rolled, ranks, breaking())]
    return {
        "rolled": codes,
        "crashed": [  # a signal at the decision; a crash past a checkpoint after it; with the record lost
            start(crashed, ranks, breaking(), stopping(ALERTS)),
            start(crashed, ranks, crashing(ALERTS + 1)),
            start(without_records(crashed, ranks), ranks),
        ],
        "twice": [start(twice, ranks, breaking(step=1, times=2))],
        "engines": list(builder.num_left),
    }


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("rollbacks")
    write_tokens(root / "tokens")
    return root


@pytest.fixture(scope="module")
def codes(root: Path) -> dict[str, list[int | str]]:
    first, second = run_ranks(on_two_ranks, 2, root)
    assert first == second
    return first


def kinds(root: Path, name: str) -> list[tuple[str, int]]:
    return [(event["event"], event["step"]) for event in events(root, name)]


def names(root: Path, name: str) -> set[str]:
    return {path.name for path in RunFolder(root / "runs" / name).checkpoints.iterdir()}


def test_a_run_goes_back_to_before_the_failure_and_on_to_its_end(codes: Any, root: Path) -> None:
    assert codes["rolled"] == [EXIT_OK]
    before = [("start", 0), ("checkpoint", 4), ("checkpoint", 8), ("stop", ALERTS), ("rollback", ALERTS)]
    assert kinds(root, "rolled") == [*before, ("resume", 8), ("checkpoint", 12), ("checkpoint", 16), ("stop", 16)]
    [rollback] = [event for event in events(root, "rolled") if event["event"] == "rollback"]
    assert (rollback["to_step"], rollback["since"], rollback["kind"]) == (8, BREAKS + 1, "explosion")
    assert rollback["message"].startswith("rollback 1, from step 12 to the checkpoint of step 8: explosion in all ")
    rows = metrics(root, "rolled")
    assert [row["step"] for row in rows] == list(range(1, NUM_STEPS + 1))
    assert [row["positions/open_alerts"] for row in rows if "positions/std" in row] == [0] * (NUM_STEPS // 2 + 1)
    largest = [max(row[READ] for row in part if READ in row) for part in (rows[:8], rows[8:])]
    assert largest[1] < 0.5 * largest[0]  # the maps' rate is lower


def test_the_engine_from_before_a_rollback_is_freed_before_the_next_one_starts(codes: Any) -> None:
    assert codes["engines"] == [0, 0]


def test_a_signal_at_the_decision_a_crash_after_it_and_a_lost_record_change_nothing(codes: Any, root: Path) -> None:
    assert codes["crashed"] == [EXIT_STOPPED, f"broken after step {ALERTS + 1}", EXIT_OK]
    assert metrics(root, "crashed") == metrics(root, "rolled")
    assert kinds(root, "crashed").count(("rollback", ALERTS)) == 1


def test_a_failure_before_the_first_checkpoint_begins_again_from_the_initial_weights(codes: Any, root: Path) -> None:
    [rollback] = [event for event in events(root, "twice") if event["event"] == "rollback"]
    assert rollback["to_step"] == 0 and "to the initial weights" in rollback["message"]
    rows, same = metrics(root, "twice"), metrics(root, "rolled")
    assert [row["step"] for row in rows] == list(range(1, rollback["step"] + 1))
    assert rows[0]["train/ce_loss"] == pytest.approx(same[0]["train/ce_loss"], rel=1e-6)


def test_after_the_last_rollback_an_alert_stops_the_run(codes: Any, root: Path) -> None:
    assert codes["twice"] == [EXIT_ALERTED]
    [first, second] = [event for event in events(root, "twice") if event["event"] == "stop"]
    assert (first["reason"], second["reason"], second["step"]) == ("rollback", "alert", first["step"])
    assert second["detail"] == "the run was rolled back 1 times already (position_watch.max_rollbacks)"


def test_what_came_after_the_alert_is_neither_saved_nor_used_and_latest_names_what_is(codes: Any, root: Path) -> None:
    kept = {"step-0000008", "step-0000012", "step-0000016", "latest", "rollbacks.json"}
    assert names(root, "rolled") == names(root, "crashed") == kept


def test_the_page_lists_a_rollback_and_marks_where_the_run_went_on(codes: Any, root: Path) -> None:
    page = read_run(RunFolder(root / "runs/rolled"))
    [entry] = page["events"]
    assert (entry["event"], entry["kind"], entry["step"]) == ("rollback", "explosion", ALERTS)
    assert entry["message"].startswith("rollback 1, from step 12 to the checkpoint of step 8: ")
    assert page["marks"] == [8] and page["status"]["state"] == "finished"


def test_in_wandb_a_rollback_begins_a_run_that_is_marked(codes: Any, root: Path) -> None:
    first, second = finished_runs(RunFolder(root / "runs/rolled").wandb)
    assert second.run_id == f"{first.run_id}-rollback-1"
    assert [row["_step"] for row in second.rows] == list(range(9, NUM_STEPS + 1))
    [title, text, _] = second.alerts[0]
    assert title == "rollback: explosion" and text.startswith("rollback 1, from step 12 to the checkpoint of step 8")


def test_damaged_checkpoints_do_not_keep_a_rollback_from_the_initial_weights(tmp_path: Path) -> None:
    folder = recorded(tmp_path)
    damaged = folder.checkpoints / "corrupt-step-0000016"
    damaged.mkdir()
    complete_rollback(folder)
    assert corrupt_folders(folder.checkpoints) == []
    assert (folder.checkpoints / f"rollback-1-{damaged.name}").is_dir()


def test_a_kill_while_checkpoints_are_set_aside_leaves_the_rest_to_the_next_start(tmp_path: Path) -> None:
    reference = carried_out(tmp_path / "reference")
    number = 1
    while True:
        folder = recorded(tmp_path / str(number))
        was_killed = killed_at(number, lambda folder=folder: complete_rollback(folder))  # type: ignore[misc]
        complete_rollback(folder)
        assert state(folder) == reference
        if not was_killed:
            break
        number += 1
    assert number > 5


def recorded(path: Path) -> RunFolder:
    """A run whose rollback is decided: checkpoints 4, 8 and 12 are to be set aside."""
    folder = RunFolder(path)
    for step in (4, 8, 12):
        (folder.checkpoints / folder_name(step)).mkdir(parents=True)
    (folder.checkpoints / "latest").write_text("step-0000012\n")
    folder.probes.mkdir()
    for step in (8, 12):
        folder.probe(step).touch()
    assert record_rollback(folder.checkpoints, [], 12, ALERT, PositionWatchConfig(), 100) is None
    assert read_rollbacks(folder.checkpoints)[0].to_step == 0  # none of these is whole
    return folder


def carried_out(path: Path) -> Any:
    folder = recorded(path)
    complete_rollback(folder)
    return state(folder)


def state(folder: RunFolder) -> Any:
    """Everything that a rollback leaves."""
    logged = [{key: value for key, value in event.items() if key != "time"} for event in read_json_lines(folder.events)]
    found = sorted(str(path.relative_to(folder.path)) for path in folder.path.rglob("*"))
    return found, logged, read_rollbacks(folder.checkpoints)


def rollback_to(*steps: int, warmup: int = 0) -> list[Rollback]:
    return [
        Rollback(number, step + 9, step, "collapse", "layer 1", step + 5, "", 0.5, warmup, is_done=True)
        for number, step in enumerate(steps, 1)
    ]


@pytest.mark.parametrize(
    ("steps", "earlier", "since", "chosen"),
    [
        ([100, 200, 300], [], 250, 200),
        ([100, 200, 300], [], 200, 100),  # a checkpoint of that very step may hold the failure
        ([100, 200], [200], 250, 100),  # the failure came again: the checkpoint may hold it
        ([200], [200], 250, 200),
        ([100, 200], [200, 100], 250, 200),  # made again since
        ([100, 200], [200, 200], 250, 100),
        ([300], [], 80, 0),
        ([], [], 100, 0),
        ([300], [], 250, None),  # the one before it is deleted
    ],
)
def test_the_last_checkpoint_before_the_failure_is_chosen(
    steps: list[int], earlier: list[int], since: int, chosen: int | None
) -> None:
    assert choose_step(steps, rollback_to(*earlier), since, 100) == chosen


def test_each_rollback_lowers_the_rate_of_the_maps_and_the_last_one_warms_it_up() -> None:
    assert rate_factor([], 7) == 1.0
    twice = rollback_to(100, 200, warmup=10)
    assert [rate_factor(twice, step) for step in (201, 205, 210, 10_000)] == [
        pytest.approx(0.25 * share) for share in (0.1, 0.5, 1, 1)
    ]
    assert rate_factor(twice, 150) == 0.25  # resumed from before the rollback's target: no warm-up is left
    assert rate_factor(rollback_to(100), 101) == 0.5


def test_damaged_records_are_refused_in_one_line(tmp_path: Path) -> None:
    record_rollback(tmp_path, [], 12, ALERT, PositionWatchConfig(), 100)
    path = tmp_path / "rollbacks.json"
    path.write_text(path.read_text().replace('"factor": 0.3', '"factor": 0.7'))
    with pytest.raises(TrainError, match="is damaged: restore it from a backup, or delete it"):
        read_rollbacks(tmp_path)


def test_too_few_checkpoints_for_a_rollback_are_refused(tmp_path: Path) -> None:
    few = {"checkpoint__keep": 2, "checkpoint__interval": 10, "position_watch__interval": 15}
    with pytest.raises(TrainError, match=r"use checkpoint\.keep=3 or more"):
        tiny(tmp_path, **{**SETTINGS, **few}).validate()
