"""The learning rate in the arithmetic of the published run."""

import pytest

from train.optimizer_config import OptimizerConfig
from train.schedule import ScheduleConfig, learning_rate, positions_factor

PEAK = 7.4487e-5
PUBLISHED = ScheduleConfig()


@pytest.mark.parametrize(
    ("step", "rate"),
    [(1, PEAK * (1 - 1 / 23842)), (11921, PEAK / 2), (23841, PEAK / 23842), (23842, 0), (23852, 0)],
)
def test_the_published_decay(step: int, rate: float) -> None:
    assert learning_rate(step, PEAK, PUBLISHED) == pytest.approx(rate, rel=1e-9)


def test_the_published_run_ends_in_eleven_steps_without_effect() -> None:
    assert sum(learning_rate(step, PEAK, PUBLISHED) == 0 for step in range(1, 23853)) == 11


def test_warm_up_is_linear_and_peaks_where_it_ends() -> None:
    schedule = ScheduleConfig(warmup_steps=4, decay_steps=10, final_fraction=0.1)
    rates = [learning_rate(step, 2.0, schedule) for step in range(1, 12)]
    assert rates[:4] == pytest.approx([0.5, 1.0, 1.5, 2.0])
    assert rates[4:] == pytest.approx([1.7, 1.4, 1.1, 0.8, 0.5, 0.2, 0.2])


def test_repo_has_the_rate_of_the_rest_as_published() -> None:
    assert {positions_factor(step, OptimizerConfig()) for step in (1, 2, 23842)} == {1.0}


def test_repo_can_have_a_multiplier_and_a_warm_up_of_its_own() -> None:
    optimizer = OptimizerConfig(repo_lr_multiplier=4.0, repo_warmup_steps=8)
    assert [positions_factor(step, optimizer) for step in (1, 2, 8, 9, 1000)] == [0.5, 1.0, 4.0, 4.0, 4.0]
