"""What each launcher of a search does: take a trial, run it to its next rung as a job, tell the study its loss.

The journal and the run folders say what is done. So the same command continues a search that was cut off, and several
launchers may share one: a trial whose launcher was killed is found by the others, and goes on from its checkpoint.
"""

import contextlib
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from optuna.trial import FrozenTrial, TrialState

from common.words import counted
from launch.ranks import shape_of
from launch.runs import best_run, write_comparison
from launch.search.halving import Pause, Run, State, decide
from launch.search.storage import Storage
from launch.search.study import Study, folder_of
from launch.search.table import write_table
from launch.sweep import Pool, command, gpu_shares
from report.metrics import EVAL_LOSS
from report.run_folder import PRUNED, is_number
from train.compose.search import Search, overrides
from train.compose.sweep import Member
from train.errors import (
    EXIT_DATA,
    EXIT_OK,
    EXIT_STOPPED,
    EXIT_STUCK,
    EXIT_UNSAVED,
    StopReason,
)
from train.launch_config import Sampler
from train.run_folder import RunFolder

IDLE_SECONDS = 1.0  # between two looks at the study while others have all that is left
TABLE = "trials.csv"
KILLED = 128  # exit codes from here on are of a process that a signal ended
NOT_ITS_OWN = (EXIT_DATA, EXIT_STUCK, EXIT_UNSAVED)
"""Exit codes whose cause is the machine or the data, and not the point that is tried."""
MOST_FAILURES = 3  # of that kind, over all starts, after which a trial has failed
STARTUP_TRIALS = 10  # of TPE, whose points do not depend on losses


class SearchQueue:
    """The trials of a study as a pool takes them. Each call reads the study again: other launchers write it too."""

    def __init__(
        self,
        search: Search,
        study: Study,
        most: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begins no trial from number `most` on."""
        self.codes: dict[str, int] = {}
        """Exit code of each run that failed here, by name."""
        self._search = search
        self._study = study
        self._most = most
        self._clock = clock
        self._taken: dict[str, tuple[int, int]] = {}  # name -> number of the trial, step to which it runs
        self._left: set[int] = set()  # trials that this launcher does not try again
        self._others: list[int] = []  # trials that another process has
        self._next_look = 0.0
        self._has_said = False

    def take(self) -> Member | None:
        """Returns a trial that was cut off or has been promoted, else a new one, else None."""
        if self._clock() < self._next_look:
            return None
        with self._study.locked():
            member = self._next()
        if member is None:
            self._next_look = self._clock() + IDLE_SECONDS
            if self._others and not self._taken and not self._has_said:
                self._has_said = True
                listed = ", ".join(map(str, self._others))
                print(f"\nwaiting: another process has trial {listed}", flush=True)
        return member

    def is_over(self) -> bool:
        """Returns whether no process has a trial that could make further ones necessary."""
        return not self._others

    def inherited(self, member: Member) -> tuple[int, ...]:
        """Returns the lock of the trial."""
        return (self._study.claimed(self._taken[member.config.name][0]),)

    def ended(self, member: Member, code: int) -> None:
        """Tells the study how a run ended."""
        number, step = self._taken.pop(member.config.name)
        self._next_look = 0.0
        with self._study.locked():
            trial = self._study.trials()[number]
            if code == EXIT_OK:
                self._note(trial, RunFolder.of(member.config), step)
            elif code != EXIT_STOPPED:
                self.codes[member.config.name] = code
                is_own = code not in NOT_ITS_OWN and code < KILLED
                if is_own or self._study.count_failure(trial) >= MOST_FAILURES:
                    self._study.end(trial, State.failed, reason=f"exit code {code}")
                else:
                    self._left.add(number)
            self._study.release(number)

    def _next(self) -> Member | None:
        self._others = []
        number = 0
        while number < len(trials := self._study.trials()):
            trial = trials[number]
            number += 1
            if trial.state is not TrialState.RUNNING or self._has(trial.number) or trial.number in self._left:
                continue
            step = self._step_of(trial)
            if step is None:
                continue
            if not self._study.claim(trial.number):
                self._others.append(trial.number)
                continue
            member = self._search.trial(trial.number, trial.params, self._stop_step(step))
            folder = RunFolder.of(member.config)
            if folder.is_in_use():  # its launcher was killed, and it saves
                self._study.release(trial.number)
                self._others.append(trial.number)
            elif self._has_reached(folder, step):  # its launcher was killed before it could say so
                self._note(trial, folder, step)
                self._study.release(trial.number)
                number = 0  # others may have waited for it
            else:
                return self._start(member, trial.number, step)
        if not self._study.has_next() or number == self._most:
            return None
        trial = self._study.begin()
        step = self._step_of(trial)
        assert step is not None
        return self._start(self._search.trial(trial.number, trial.params, self._stop_step(step)), trial.number, step)

    def _start(self, member: Member, number: int, step: int) -> Member:
        self._taken[member.config.name] = (number, step)
        return member

    def _has(self, number: int) -> bool:
        return any(number == taken for taken, _ in self._taken.values())

    def _step_of(self, trial: FrozenTrial) -> int | None:
        """Returns the step to which a trial is to run, or None if it is not to run now; ends one that has lost."""
        cohort, size = self._study.cohort_of(trial.number)
        settings, last = self._search.config.launch.search, self._search.config.max_steps
        rungs, reduction = settings.rungs, settings.reduction
        action = decide(trial.number, cohort, size=size, rungs=rungs, reduction=reduction, last_step=last)
        if isinstance(action, Run):
            return action.step
        if action is Pause.prune:
            self._study.end(trial, State.pruned)
        elif action is Pause.complete:
            self._study.end(trial, State.complete, loss=trial.intermediate_values[last])
        return None

    def _stop_step(self, step: int) -> int | None:
        return None if step == self._search.config.max_steps else step

    def _has_reached(self, folder: RunFolder, step: int) -> bool:
        reason = StopReason.finished if self._stop_step(step) is None else StopReason.stop_step
        return folder.has_ended(step, reason.word)

    def _note(self, trial: FrozenTrial, folder: RunFolder, step: int) -> None:
        """Notes the loss of a trial that has reached a step; one without a loss has failed."""
        loss = loss_at(folder, step)
        if loss is None:
            self._study.end(trial, State.failed, reason=f"no {EVAL_LOSS} at step {step}")
            print(f"{folder.path.name} has failed: its metrics have no {EVAL_LOSS} at step {step}", flush=True)
            return
        self._study.report(trial, step, loss)
        print(f"{folder.path.name}: {EVAL_LOSS} {loss:.4f} at step {step}", flush=True)
        if self._stop_step(step) is None:
            self._study.end(trial, State.complete, loss=loss)


def loss_at(folder: RunFolder, step: int) -> float | None:
    """Returns the validation loss that a run logged at a step; None if it is not there, or no number."""
    value = next((row.get(EVAL_LOSS) for row in folder.read_metrics() if row["step"] == step), None)
    return float(value) if value is not None and is_number(value) else None


def run_search(search: Search, *, is_dry: bool = False) -> int:
    """Runs trials until none is left, prints them and writes their comparison; returns the exit code.

    It is EXIT_STOPPED after a signal, else the highest of the runs that failed here. Raises TrainError, before anything
    starts, if a search cannot be run like this.
    """
    places = _places(search)
    if is_dry:
        return _print_commands(search)
    study = Study(search)
    with study.locked():
        study.open()
        trials = study.trials()
    num_ended = sum(trial.state.is_finished() for trial in trials)
    wanted = search.config.launch.search.trials
    print(f"{search.study}: {counted(wanted, 'trial')}, {num_ended} of them done; {study.folder}", flush=True)
    queue = SearchQueue(search, study)
    pool = Pool(queue, places)
    pool.run()
    with study.locked():
        trials = study.trials()
        mark_pruned(search, trials)
    print(f"\n{write_table(search, trials, study.folder / TABLE)}")
    root = Path(search.config.run_root)
    runs = [RunFolder(root / search.name_of(trial.number)) for trial in trials]
    print(f"table: {study.folder / TABLE}")
    if (written := write_comparison(search.study, runs)) is not None:
        print(f"page: {written[1]}")
    if best := best_lines(search, trials):
        print("\n".join(best))
    for name, code in queue.codes.items():
        print(f"error: {name} ended with code {code}: {root / name}", file=sys.stderr)
    if pool.stopped:
        print("\nstopped: the same command does what is left")
        return EXIT_STOPPED
    if unfinished := [trial.number for trial in trials if not trial.state.is_finished()]:
        print(f"trials {', '.join(map(str, unfinished))} are not done: the same command tries them again")
    return max(queue.codes.values(), default=EXIT_OK)


def best_lines(search: Search, trials: Sequence[FrozenTrial]) -> list[str]:
    """Returns what the best finished trial is, and the commands that go on from it; nothing if none has finished."""
    ended = [trial for trial in trials if trial.state is TrialState.COMPLETE and trial.value is not None]
    if not ended:
        return []
    best = min(ended, key=lambda trial: (trial.value, trial.number))
    member = search.trial(best.number, best.params, None)
    values = " ".join(overrides(best.params))
    return best_run(RunFolder.of(member.config), f"{EVAL_LOSS} {best.value:.4f} with {values}", member.arguments)


def mark_pruned(search: Search, trials: Sequence[FrozenTrial]) -> None:
    """Says in the folder of each pruned trial, once, that it is: for `status` and comparisons."""
    for trial in trials:
        folder = RunFolder(Path(search.config.run_root) / search.name_of(trial.number))
        event = folder.last_event()
        if trial.state is TrialState.PRUNED and event is not None and event.get("event") != PRUNED:
            folder.log_event(PRUNED, step=max(trial.intermediate_values))


def _places(search: Search) -> list[str | None]:
    """Returns the GPUs of each place. Raises TrainError if trials cannot be run and waited for like this."""
    launch = search.config.launch
    places = gpu_shares(launch.parallel)
    shape_of(search.config, None if places[0] is None else len(places[0].split(",")))
    return places


def _print_commands(search: Search) -> int:
    """Prints the commands of all trials whose point is known, from a copy of the study; returns the exit code."""
    storage = Storage.of(search, folder_of(search))
    with tempfile.TemporaryDirectory() as folder:
        study = Study(search, Path(folder))
        with contextlib.suppress(FileNotFoundError):
            shutil.copy(storage.path, study.storage.path)
        with study.locked():
            study.open()
            number = len(study.trials())
        depends = search.config.launch.search.sampler is not Sampler.random
        total = search.config.launch.search.trials
        known = max(number, min(total, STARTUP_TRIALS) if depends else total)
        queue = SearchQueue(search, study, known)
        while (member := queue.take()) is not None:
            print(shlex.join(command(member)))
        if known < total:
            print(f"# the points of trials {known} to {total - 1} follow from the losses of those before")
    return EXIT_OK
