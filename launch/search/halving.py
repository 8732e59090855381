"""Synchronous halving: at each rung all trials of a cohort are compared, and one of `reduction` goes on.

It is a pure function of the losses, so that every launcher decides alike, whenever it asks. Trials are compared only
when all of them are there: a decision with those that came first would depend on the order in which they ran. A trial
that goes on continues from its checkpoint.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum


class State(Enum):
    """What has become of a trial."""

    running = "running"
    """It has a next step, or waits; whether a process trains it is not meant."""
    complete = "complete"
    pruned = "pruned"
    failed = "failed"


@dataclass(frozen=True)
class Trial:
    """What a decision needs of a trial."""

    number: int
    state: State
    losses: Mapping[int, float] = field(default_factory=dict)
    """Validation loss by the step at which the trial stopped."""


@dataclass(frozen=True)
class Run:
    """Train to a step."""

    step: int


class Pause(Enum):
    """Why a trial is not to be trained now."""

    wait = "wait"
    """Others of its cohort have not reached its rung."""
    prune = "prune"
    """Others did better."""
    complete = "complete"
    """It has reached the end."""


def decide(
    number: int, cohort: Sequence[Trial], *, size: int, rungs: Sequence[int], reduction: int, last_step: int
) -> Run | Pause:
    """Returns what is next for a trial of a cohort, of which `size` trials are to be compared.

    A failed trial is last at the rung that it did not reach.
    """
    left = {trial.number: trial for trial in cohort}
    for rung in rungs:
        if rung not in left[number].losses:
            return Run(rung)
        reached = sorted((t.losses[rung], t.number) for t in left.values() if rung in t.losses)
        lacking = [trial for trial in left.values() if rung not in trial.losses and trial.state is not State.failed]
        if lacking or len(cohort) < size:
            return Pause.wait
        num_kept = max(1, len(left) // reduction)
        left = {kept: left[kept] for _, kept in reached[:num_kept]}
        if number not in left:
            return Pause.prune
    return Pause.complete if last_step in left[number].losses else Run(last_step)
