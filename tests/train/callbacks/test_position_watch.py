"""What follows from alerts of one step, by policy."""

from typing import Any, cast

import pytest

from train.callbacks.callback import TrainerInterface
from train.callbacks.position_watch import PositionWatch
from train.errors import Stop, StopReason
from train.watch.alert import ADVICE, ONLY_REPORTED, Alert
from train.watch.config import AlertPolicy, PositionWatchConfig


class Recorder:
    """Takes what a callback may ask of a trainer."""

    def __init__(self) -> None:
        self.asked: list[Any] = []

    def save(self) -> None:
        self.asked.append("save")

    def stop(self, stop: Stop) -> None:
        self.asked.append(stop.reason)

    def roll_back(self, alert: Alert) -> None:
        self.asked.append(alert)


def alert(kind: str, since: int = 10) -> Alert:
    return Alert("alert", kind, "layer 1", since, "layer 1: ...")


def asked(policy: AlertPolicy, *alerts: Alert) -> list[Any]:
    """What the watch asks for at the end of the step in which these alerts are raised."""
    watch, trainer = PositionWatch(PositionWatchConfig(policy=policy), 64, 0), Recorder()
    watch._raised = list(alerts)
    for _ in range(2):  # once
        watch.on_step_end(cast(TrainerInterface, trainer))
    return trainer.asked


@pytest.mark.parametrize("kind", ADVICE)
def test_each_policy_answers_each_kind_of_alert_once(kind: str) -> None:
    raised = alert(kind)
    assert asked(AlertPolicy.warn, raised) == []
    assert asked(AlertPolicy.checkpoint, raised) == ["save"]
    assert asked(AlertPolicy.stop, raised) == [StopReason.alert]
    expected = [] if kind in ONLY_REPORTED else [raised]
    assert asked(AlertPolicy.rollback, raised) == expected


def test_of_several_failures_the_first_is_rolled_back() -> None:
    early, late = alert("collapse", 5), alert("explosion", 8)
    assert asked(AlertPolicy.rollback, alert("rope", 1), late, early) == [early]
