"""The study that several launchers share: whoever asks, points and decisions are the same, and no trial is lost."""

import copy
import dataclasses
from pathlib import Path
from typing import Any

import pytest

from launch.search import driver
from launch.search.driver import SearchQueue, mark_pruned
from launch.search.halving import State
from launch.search.study import STATES, Study
from report.metrics import EVAL_LOSS, TOKENS
from report.overview import overview
from train.compose.app import save_run_config
from train.compose.search import Choices, Range, Search, compose_search
from train.compose.sweep import Member
from train.errors import EXIT_CRASHED, EXIT_OK, EXIT_STOPPED, EXIT_STUCK, TrainError
from train.run_folder import RunFolder

SPACE = """
space:
  optimizer.lr: {low: 1.0e-4, high: 1.0e-2, log: true}
  optimizer.repo_lr_multiplier: [1, 3]
"""


@pytest.fixture(scope="module")
def composed(tmp_path_factory: pytest.TempPathFactory) -> Search:
    path = tmp_path_factory.mktemp("spaces") / "mine.yaml"
    path.write_text(SPACE)
    return compose_search([f"sweep={path}", "experiment=demo-backbone", "name=s"])


def in_folder(search: Search, root: Path, **settings: Any) -> Search:
    """Returns the search with its runs in `root`, and with other keys of launch.search."""
    config = copy.deepcopy(search.config)
    config.run_root = str(root)
    for key, value in settings.items():
        setattr(config.launch.search, key, value)
    return dataclasses.replace(search, config=config)


class Clock:
    """Seconds that pass by looking."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 10.0
        return self.now


class Launcher:
    """What a launcher holds, without the processes that it would start."""

    def __init__(self, search: Search) -> None:
        self.study = Study(search)
        with self.study.locked():
            self.study.open()
        self.queue = SearchQueue(search, self.study, clock=Clock())
        self.members: list[Member] = []

    def take(self) -> tuple[str, int | None] | None:
        """Returns the name and the stop step of the member that it takes, if any."""
        member = self.queue.take()
        if member is None:
            return None
        self.members.append(member)
        return member.config.name.removeprefix("s-mine-"), member.config.stop_step

    def end(self, code: int = EXIT_OK, loss: float | None = None) -> None:
        """Ends the member that it took first; with a loss, the run has reached its step."""
        member = self.members.pop(0)
        if loss is not None:
            train(member, loss)
        self.queue.ended(member, code)

    def die(self) -> None:
        """Gives up its locks, as the kernel does for a process that was killed."""
        for number in list(self.study._claims):
            self.study.release(number)

    def states(self) -> list[State]:
        with self.study.locked():
            return [STATES[trial.state] for trial in self.study.trials()]


def train(member: Member, loss: float) -> None:
    """Writes what a run leaves behind that has reached its step."""
    config, folder = member.config, RunFolder.of(member.config)
    folder.path.mkdir(parents=True, exist_ok=True)
    save_run_config(config, folder.config)
    step = config.stop_step or config.max_steps
    folder.log_metrics({"step": step, TOKENS: step, EVAL_LOSS: loss})
    folder.log_event("stop", step=step, reason="stop_step" if config.stop_step else "finished")


@pytest.mark.parametrize("storage", [None, "{}/all.log", "sqlite:///{}/new/all.db"])
def test_two_launchers_share_the_trials_and_one_that_is_killed_loses_none(
    composed: Search, tmp_path: Path, storage: str | None
) -> None:
    storage = None if storage is None else storage.format(tmp_path)
    search = in_folder(composed, tmp_path, trials=3, rungs=[40], storage=storage)
    one, other = Launcher(search), Launcher(search)
    assert [one.take(), other.take(), one.take()] == [("trial-000", 40), ("trial-001", 40), ("trial-002", 40)]
    assert other.take() is None and not other.queue.is_over()
    one.end(loss=5.0)
    other.end(loss=3.0)
    train(one.members[0], 4.0)  # trial 2 is at its rung, and one is killed before it says so
    one.die()
    restarted = Launcher(search)
    assert [other.take(), restarted.take()] == [("trial-001", None), None]
    assert restarted.states() == [State.pruned, State.running, State.pruned]
    other.die()  # while it trains trial 1 to its end
    assert restarted.take() == ("trial-001", None)
    restarted.end(loss=2.0)
    assert restarted.take() is None and restarted.queue.is_over()
    assert restarted.states() == [State.pruned, State.complete, State.pruned]
    again = Launcher(search)
    assert again.take() is None and again.queue.is_over()
    with again.study.locked():
        for _ in range(2):
            mark_pruned(search, again.study.trials())
    folders = [RunFolder(tmp_path / search.name_of(number)) for number in range(3)]
    assert [overview(folder).state for folder in folders] == ["pruned", "finished", "pruned"]
    assert [event["event"] for event in folders[0].read_events()] == ["stop", "pruned"]
    folders[0].log_event("resume", step=40)
    assert overview(folders[0]).state == "running"


def test_a_study_is_looked_for_only_where_it_was_begun(composed: Search, tmp_path: Path) -> None:
    begun = {"in.log": tmp_path / "in.log", "default": tmp_path / "default/s-mine-search/journal.log"}
    for name, path in begun.items():
        storage = None if name == "default" else str(path)
        Launcher(in_folder(composed, tmp_path / name.partition(".")[0], storage=storage))
        assert path.exists()
        with pytest.raises(TrainError, match=rf"are in {path}: set launch.search.storage={path}, or name="):
            Launcher(in_folder(composed, tmp_path / name.partition(".")[0], storage=f"sqlite:///{tmp_path}/other.db"))
    (tmp_path / "text.db").write_text("no database, but longer than its header would be\n" * 20)
    with pytest.raises(TrainError, match=r"text.db is no storage of a search: move it away, or give another name="):
        Launcher(in_folder(composed, tmp_path / "third", storage=f"sqlite:///{tmp_path}/text.db"))


def test_a_run_that_still_saves_after_its_launcher_was_killed_is_waited_for(
    composed: Search, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    search = in_folder(composed, tmp_path, trials=1)
    killed, other = Launcher(search), Launcher(search)
    assert killed.take() == ("trial-000", None)
    killed.die()
    monkeypatch.setattr(RunFolder, "is_in_use", lambda folder: True)
    assert other.take() is None and not other.queue.is_over()
    monkeypatch.undo()
    assert other.take() == ("trial-000", None)


def test_points_do_not_depend_on_who_asks_and_none_is_tried_twice(composed: Search, tmp_path: Path) -> None:
    space: dict[str, Range | Choices] = {"seed": Choices((1, 2, 3)), "schedule.warmup_steps": Range(1, 2)}
    few = dataclasses.replace(composed, space=space)
    seen = []
    for number in (1, 3):
        launchers = [Launcher(in_folder(few, tmp_path / str(number), trials=6)) for _ in range(number)]
        for trial in range(6):
            assert launchers[trial % number].take()
        seen.append([dict(member.swept) for member in sorted_members(launchers)])
    assert seen[0] == seen[1] and len({tuple(point.items()) for point in seen[0]}) == 6
    launcher = Launcher(in_folder(few, tmp_path / "other", seed=1))
    assert launcher.take() and launcher.members[0].swept != seen[0][0]


def sorted_members(launchers: list[Launcher]) -> list[Member]:
    return sorted((member for each in launchers for member in each.members), key=lambda member: member.config.name)


def test_a_trial_that_fails_by_itself_is_over_and_one_that_a_machine_cut_off_is_tried_again(
    composed: Search, tmp_path: Path
) -> None:
    search = in_folder(composed, tmp_path, trials=3)
    first = Launcher(search)
    for code in (EXIT_CRASHED, EXIT_STUCK, EXIT_OK):  # the last one: without eval/loss
        assert first.take()
        first.end(code)
    assert first.states() == [State.failed, State.running, State.failed]
    assert first.queue.codes == {"s-mine-trial-000": EXIT_CRASHED, "s-mine-trial-001": EXIT_STUCK}
    assert first.take() is None and first.queue.is_over()
    for _ in range(driver.MOST_FAILURES - 1):
        retried = Launcher(search)
        assert retried.take() == ("trial-001", None)
        retried.end(EXIT_STUCK)
    assert retried.states() == [State.failed] * 3


def test_a_stopped_trial_goes_on_and_more_trials_are_a_cohort_of_their_own(composed: Search, tmp_path: Path) -> None:
    launcher = Launcher(in_folder(composed, tmp_path, rungs=[40], trials=2))
    assert launcher.take() == ("trial-000", 40)
    launcher.end(EXIT_STOPPED)
    assert [launcher.take(), launcher.take()] == [("trial-000", 40), ("trial-001", 40)]
    launcher.end(loss=1.0)
    launcher.end(loss=2.0)
    assert launcher.take() == ("trial-000", None)
    launcher.end(loss=0.5)
    longer = Launcher(in_folder(composed, tmp_path, rungs=[40], trials=3))
    assert longer.take() == ("trial-002", 40)
    longer.end(loss=9.0)
    assert longer.take() == ("trial-002", None)
    with pytest.raises(TrainError, match=r"launch.search.trials=1 is less than the 3 of .*: a search cannot shrink"):
        Launcher(in_folder(composed, tmp_path, rungs=[40], trials=1))


def test_the_study_of_another_search_is_refused_with_what_differs(composed: Search, tmp_path: Path) -> None:
    search = in_folder(composed, tmp_path)
    Launcher(search)
    other = in_folder(composed, tmp_path)
    other.config.optimizer.weight_decay = 0.0
    with pytest.raises(TrainError, match=r"another search \(optimizer.weight_decay was 0.1, is 0.0\): restore this"):
        Launcher(other)
    stopping = in_folder(composed, tmp_path)
    stopping.config.positions.start_layer = 0
    with pytest.raises(TrainError, match=r"another search \(positions.start_layer was null, is 0\)"):
        Launcher(stopping)
    fewer = {"optimizer.lr": search.space["optimizer.lr"]}
    with pytest.raises(TrainError, match=r"another search \(.*space.optimizer.repo_lr_multiplier was .*, is absent"):
        Launcher(dataclasses.replace(search, space=fewer))
    (tmp_path / "s-mine-search/journal.log").write_text('{"op_code": 99}\n[]\n')
    with pytest.raises(TrainError, match=r"journal.log is no storage of a search: move it away"):
        Launcher(search)


def test_a_journal_whose_last_line_a_full_disk_cut_off_is_read(composed: Search, tmp_path: Path) -> None:
    search = in_folder(composed, tmp_path)
    launcher = Launcher(search)
    assert launcher.take()
    launcher.die()
    with (tmp_path / "s-mine-search/journal.log").open("a") as journal:
        journal.write('{"op_code":4,"wor')
    after = Launcher(search)
    assert after.take() == ("trial-000", None)
    assert after.states() == [State.running]
