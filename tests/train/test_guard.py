"""The spike guard accepts values that vary as before, and a new level when it stays."""

import json
import random

import pytest

from train.guard import GuardConfig, SpikeGuard

WINDOW = 16


def guard(loss: float | None = None, grad_norm: float | None = None) -> SpikeGuard:
    return SpikeGuard(GuardConfig(loss, grad_norm, window=WINDOW, max_in_a_row=3))


def ordinary(seed: int = 0) -> list[tuple[float, float]]:
    """(loss, gradient norm) of a whole window: 2.3 and 0.5, with noise."""
    noise = random.Random(seed)
    return [(noise.gauss(2.3, 0.05), noise.lognormvariate(-0.7, 0.2)) for _ in range(WINDOW)]


def test_it_is_off_unless_a_threshold_is_set() -> None:
    assert not guard().is_on and guard(loss=8.0).is_on and guard(grad_norm=8.0).is_on
    assert guard().judge(1e9, 1e9) is None


def test_nothing_is_a_spike_before_a_window_is_full() -> None:
    judge = guard(loss=8.0, grad_norm=8.0).judge
    assert [judge(*values) for values in [*ordinary()[:-1], (50.0, 900.0)]] == [None] * WINDOW


@pytest.mark.parametrize(("loss", "norm", "named"), [(9.0, 0.5, "loss 9 "), (2.3, 80.0, "gradient norm 80 ")])
def test_a_spike_of_either_is_refused_with_a_reason(loss: float, norm: float, named: str) -> None:
    both = guard(loss=8.0, grad_norm=8.0)
    assert [both.judge(*values) for values in ordinary()] == [None] * WINDOW
    reason = both.judge(loss, norm)
    assert reason is not None and reason.startswith(named) and f"the last {WINDOW} have a median of" in reason
    assert both.judge(2.3, 0.5) is None


def test_refused_values_do_not_raise_the_limit_but_a_level_that_stays_is_learned() -> None:
    one = guard(loss=8.0)
    for values in ordinary():
        one.judge(*values)
    verdicts = [one.judge(4.0, 0.5) is None for _ in range(4 + WINDOW)]
    assert verdicts == [False] * 3 + [True] * (1 + WINDOW)
    assert one.judge(2.3, 0.5) is None  # below is never a spike
    assert one.judge(9.0, 0.5) is not None


def test_values_that_never_vary_may_change_by_a_hundredth() -> None:
    one = guard(loss=2.0)
    for _ in range(WINDOW):
        one.judge(1.0, 1.0)
    assert one.judge(1.019, 1.0) is None and one.judge(1.03, 1.0) is not None


def test_a_restored_guard_judges_as_the_one_that_was_saved() -> None:
    noise = random.Random(1)
    values = [*ordinary(), *((2.3 + noise.paretovariate(2) - 1, noise.paretovariate(1)) for _ in range(200))]
    undisturbed, first = guard(loss=4.0, grad_norm=4.0), guard(loss=4.0, grad_norm=4.0)
    verdicts = [undisturbed.judge(*pair) for pair in values]
    assert 5 < sum(verdict is not None for verdict in verdicts) < 150
    resumed: list[str | None] = []
    for start in range(0, len(values), 7):
        second = guard(loss=4.0, grad_norm=4.0)
        second.load_state_dict(json.loads(json.dumps(first.state_dict())))
        resumed += [second.judge(*pair) for pair in values[start : start + 7]]
        first = second
    assert resumed == verdicts
