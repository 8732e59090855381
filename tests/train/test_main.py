"""train/__main__.py: what a person is told before the first step."""

import dataclasses
from pathlib import Path

from tests.train.tiny import tiny
from train.__main__ import idle_steps
from train.config import RunConfig


def test_steps_that_would_learn_nothing_are_said_with_the_key_to_set(tmp_path: Path) -> None:
    config = tiny(tmp_path, max_steps=40, schedule__decay_steps=20)
    assert "set schedule.decay_steps=40 too" in str(idle_steps(config))
    assert idle_steps(dataclasses.replace(config, max_steps=20)) is None
    config.schedule.final_fraction = 0.1
    assert idle_steps(config) is None
    published = RunConfig(name="published")
    assert published.max_steps > published.schedule.decay_steps
    assert idle_steps(published) is None
