"""The trials of a search, in a folder beside the runs: what every launcher of the same command reads and writes.

    runs/STUDY-search/journal.log             Optuna's journal: points, losses, states; optuna-dashboard shows it
    runs/STUDY-search/journal.log.launchers   held while a launcher reads and changes the journal
    runs/STUDY-search/trial-007.lock          held while a launcher, or what it started, has this trial

With `launch.search.storage` the journal is another file, or one of SQLite (storage.py).

Locks end with their holder, however it ends. A trial without one whose state is `running` was cut off, and is the next
launcher's to continue. Its lock is inherited by the process that trains it, so that it lasts until that has saved.
"""

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState, create_trial

from common.words import config_text
from launch.search.halving import State, Trial
from launch.search.sampling import distributions, next_point
from launch.search.storage import Storage
from train.compose.search import Search
from train.errors import TrainError
from train.run_folder import explained_write_errors

STATES = {
    TrialState.RUNNING: State.running,
    TrialState.COMPLETE: State.complete,
    TrialState.PRUNED: State.pruned,
    TrialState.FAIL: State.failed,
}
DEFINITION, COHORTS, FAILURES, REASON = "definition", "cohorts", "failures", "reason"


def folder_of(search: Search) -> Path:
    """Returns where the study is, or will be."""
    return Path(search.config.run_root) / f"{search.study}-search"


class Study:
    """The study of a search. All but `locked` is to be called while that is open."""

    def __init__(self, search: Search, copy: Path | None = None) -> None:
        """Takes `copy`, a folder with a copy of the storage, instead of the one that the search names."""
        self.folder = folder_of(search) if copy is None else copy
        self.storage = Storage.of(search, self.folder)
        if copy is not None:
            self.storage = replace(self.storage, path=copy / self.storage.path.name)
        self._search = search
        self._claims: dict[int, int] = {}
        self._study: optuna.Study | None = None
        optuna.logging.set_verbosity(optuna.logging.ERROR)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Waits until no other launcher reads or writes the study, and keeps others from it.

        Raises TrainError if the folder cannot be written.
        """
        with explained_write_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            self.storage.path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.storage.lock, os.O_RDWR | os.O_CREAT, 0o666)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        try:
            yield
        finally:
            os.close(descriptor)

    def open(self) -> None:
        """Opens the study, or begins it. Raises TrainError if it is that of another search, or cannot be read."""
        self.storage.note(self.folder)
        study = self.storage.study(self._search.study)
        seen = dict(study.user_attrs)
        definition = self._search.definition()
        if DEFINITION in seen:
            self._check(seen[DEFINITION], definition)
        else:
            study.set_user_attr(DEFINITION, definition)
        self._study = study
        self._extend(seen.get(COHORTS, []))

    def trials(self) -> list[FrozenTrial]:
        """Returns all trials, in the order of their numbers."""
        return self._open.get_trials(deepcopy=False)

    def cohort_of(self, number: int) -> tuple[list[Trial], int]:
        """Returns the trials that a trial is compared with, itself among them, and how many they are to be.

        Trials that extend a search are a cohort of their own: those before them were decided about without them.
        """
        totals: list[int] = self._open.user_attrs[COHORTS]
        first = max((total for total in totals if total <= number), default=0)
        last = next(total for total in totals if total > number)
        return [plain(trial) for trial in self.trials() if first <= trial.number < last], last - first

    def has_next(self) -> bool:
        """Returns whether a further trial is to be begun."""
        return len(self.trials()) < self._open.user_attrs[COHORTS][-1]

    def begin(self) -> FrozenTrial:
        """Adds the next trial and claims it."""
        trials = self.trials()
        point = next_point(self._search, trials)
        assert self.claim(len(trials))
        # One line of the journal holds the point too: a kill leaves no trial without one.
        self._open.add_trial(
            create_trial(state=TrialState.RUNNING, params=dict(point), distributions=distributions(self._search))
        )
        return self.trials()[-1]

    def claim(self, number: int) -> bool:
        """Takes a trial for this launcher; returns False if another has it, or what another started."""
        if number in self._claims:
            return False
        with explained_write_errors(self.folder):
            descriptor = os.open(self.folder / f"trial-{number:03d}.lock", os.O_RDWR | os.O_CREAT, 0o666)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
                return False
        self._claims[number] = descriptor
        return True

    def claimed(self, number: int) -> int:
        """Returns the open lock file of a trial of this launcher."""
        return self._claims[number]

    def release(self, number: int) -> None:
        """Gives a trial back."""
        os.close(self._claims.pop(number))

    def report(self, trial: FrozenTrial, step: int, loss: float) -> None:
        """Notes the loss of a trial at a step at which it stopped."""
        if step not in trial.intermediate_values:
            optuna.trial.Trial(self._open, trial._trial_id).report(loss, step)

    def end(self, trial: FrozenTrial, state: State, *, loss: float | None = None, reason: str = "") -> None:
        """Ends a trial for good, with its last loss if it is complete."""
        if reason:
            self._set(trial, REASON, reason)
        [ended] = [theirs for theirs, ours in STATES.items() if ours is state]
        self._open.tell(trial.number, loss, state=ended)

    def count_failure(self, trial: FrozenTrial) -> int:
        """Counts a failure that need not be the trial's own; returns their number."""
        number = trial.user_attrs.get(FAILURES, 0) + 1
        self._set(trial, FAILURES, number)
        return number

    @property
    def _open(self) -> optuna.Study:
        assert self._study is not None
        return self._study

    def _set(self, trial: FrozenTrial, name: str, value: Any) -> None:
        optuna.trial.Trial(self._open, trial._trial_id).set_user_attr(name, value)

    def _check(self, before: dict[str, Any], now: dict[str, Any]) -> None:
        plain = json.loads(json.dumps(now))
        keys = [key for key in {**before, **plain} if key in before or key.startswith("space.")]  # no newer keys
        if changed := [key for key in keys if before.get(key) != plain.get(key)]:
            texts = [{key: config_text(value) for key, value in each.items()} for each in (before, plain)]
            was, is_now = ({key: each.get(key, "absent") for key in changed} for each in texts)
            listed = ", ".join(f"{key} was {was[key]}, is {is_now[key]}" for key in changed)
            raise TrainError(f"{self.folder} belongs to another search ({listed}): restore this, or give another name=")

    def _extend(self, totals: list[int]) -> None:
        trials = self._search.config.launch.search.trials
        if totals and trials < totals[-1]:
            raise TrainError(
                f"launch.search.trials={trials} is less than the {totals[-1]} of {self.folder}: a search cannot shrink"
            )
        if not totals or trials > totals[-1]:
            self._open.set_user_attr(COHORTS, [*totals, trials])


def plain(trial: FrozenTrial) -> Trial:
    """Returns what a decision needs of a trial."""
    return Trial(trial.number, STATES[trial.state], trial.intermediate_values)
