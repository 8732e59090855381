"""train/callbacks/slow_steps.py: which steps are reported, and in which words."""

import logging
from types import SimpleNamespace
from typing import Any, cast

import pytest

from train.callbacks.callback import TrainerInterface
from train.callbacks.slow_steps import EXCHANGE_INTERVAL, MIN_STEPS, SlowSteps

SLOW_STEP = 2 * EXCHANGE_INTERVAL + 5


def reported(own: list[float]) -> list[dict[str, Any]]:
    """The events of 30 steps of 1 s, of which one takes 10 s; `own` is the work of each rank in it."""
    now, events = [0.0], []
    engine = SimpleNamespace(forward_seconds=0.5)
    ranks = SimpleNamespace(is_main=True, gather=lambda steps: [with_own(steps, seconds) for seconds in own])
    folder = SimpleNamespace(log_event=lambda name, **fields: events.append({"event": name, **fields}))
    trainer = SimpleNamespace(engine=engine, ranks=ranks, folder=folder, data_seconds=0.1, step=0)

    def with_own(steps: list[tuple[int, float, float]], seconds: float) -> list[tuple[int, float, float]]:
        return [(step, took, seconds if step == SLOW_STEP else mine) for step, took, mine in steps]

    callback = SlowSteps(4.0, clock=lambda: now[0])
    for trainer.step in range(1, 3 * EXCHANGE_INTERVAL + 1):
        callback.on_step_start(cast(TrainerInterface, trainer))
        now[0] += 10.0 if trainer.step == SLOW_STEP else 1.0
        callback.on_update(cast(TrainerInterface, trainer))
        callback.on_step_end(cast(TrainerInterface, trainer))
    return events


@pytest.mark.parametrize(
    ("own", "line", "fields"),
    [
        ([9.5], "rank 0 worked for 9.50 s of it", {"rank": 0, "own_seconds": 9.5}),
        (
            [2.0, 9.25, 4.0],
            "rank 1 worked for 9.25 s of it, the others for 3.00 s (median)",
            {"rank": 1, "own_seconds": 9.25, "own_seconds_of_others": 3.0},
        ),
    ],
)
def test_a_slow_step_names_the_rank_and_what_others_did_meanwhile(
    own: list[float], line: str, fields: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    assert SLOW_STEP > MIN_STEPS  # else there is no usual time yet
    times = {"seconds": 10.0, "usual": 1.0}
    assert reported(own) == [{"event": "slow_step", "step": SLOW_STEP, **times, **fields}]
    [record] = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert record.getMessage() == f"step {SLOW_STEP} took 10.00 s, usually 1.00 s; {line}"
