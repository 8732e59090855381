"""Synchronous halving: who goes on does not depend on the order in which trials arrive."""

import itertools

from launch.search.halving import Pause, Run, State, Trial, decide

RUNGS, LAST = (2, 4), 8


def trial(number: int, *losses: float, state: State = State.running) -> Trial:
    return Trial(number, state, dict(zip((*RUNGS, LAST), losses, strict=False)))


def next_of(number: int, cohort: list[Trial], size: int = 6) -> Run | Pause:
    return decide(number, cohort, size=size, rungs=RUNGS, reduction=2, last_step=LAST)


def test_all_run_to_the_first_rung_and_wait_there_for_the_last() -> None:
    cohort = [trial(0), trial(1, 6.0), trial(2, 1.0)]
    assert [next_of(number, cohort) for number in range(3)] == [Run(2), Pause.wait, Pause.wait]
    there = [trial(number, 1.0 + number) for number in range(5)]
    assert next_of(0, there) is Pause.wait  # the sixth is not begun yet


def test_the_best_half_goes_on_whatever_the_order() -> None:
    losses = [3.0, 1.0, 4.0, 1.5, 9.0, 2.6]
    for order in itertools.permutations(range(6)):
        cohort = [trial(number, losses[number]) for number in order]
        goes_on = {number for number in range(6) if next_of(number, cohort) == Run(4)}
        assert goes_on == {1, 3, 5}
    assert {next_of(number, cohort) for number in (0, 2, 4)} == {Pause.prune}


def test_each_rung_halves_those_that_are_left_and_one_always_goes_on() -> None:
    cohort = [trial(0, 1.0, 5.0), trial(1, 2.0, 4.0), trial(2, 3.0, 6.0), trial(3, 4.0), trial(4, 5.0), trial(5, 6.0)]
    assert [next_of(number, cohort) for number in range(6)] == [Pause.prune, Run(8), *[Pause.prune] * 4]
    cohort[1] = trial(1, 2.0, 4.0, 3.0)
    assert next_of(1, cohort) is Pause.complete
    assert next_of(0, [trial(0, 1.0)], size=1) == Run(4)


def test_a_failed_trial_keeps_no_other_waiting_and_is_not_replaced() -> None:
    failed = trial(0, state=State.failed)
    cohort = [failed, *(trial(number, float(number)) for number in range(1, 6))]
    assert [next_of(number, cohort) for number in range(1, 6)] == [*[Run(4)] * 3, Pause.prune, Pause.prune]
    cohort[1] = trial(1, 1.0, state=State.failed)  # after it was promoted
    assert [next_of(number, cohort) for number in (2, 3, 4)] == [Run(4), Run(4), Pause.prune]


def test_equal_losses_go_by_number() -> None:
    assert [next_of(number, [trial(1, 1.0), trial(0, 1.0)], size=2) for number in (0, 1)] == [Run(4), Pause.prune]


def test_without_rungs_a_trial_runs_to_its_end() -> None:
    alone = [Trial(0, State.running)]
    assert decide(0, alone, size=9, rungs=(), reduction=3, last_step=LAST) == Run(LAST)
