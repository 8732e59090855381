"""train/__main__.py: what a person is told before the first step."""

import dataclasses
from pathlib import Path

import pytest

from data.config import SourceConfig
from data.errors import DataError
from data.stream import build_stream
from tests.train.tiny import tiny, write_tokens
from train.__main__ import describe_data, idle_steps
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


def test_the_mix_is_printed_and_too_many_passes_end_the_start_but_not_a_resume(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tiny(tmp_path, max_steps=60)
    write_tokens(tmp_path / "tokens", num_files=2)
    config.data.file_list = None
    config.data.sources = {
        "a": SourceConfig(["part-0.npy"], 3.0, max_epochs=2),
        "b": SourceConfig(["part-1.npy"], 1.0),
        "c": SourceConfig(["part-1.npy"], 0.0),
    }
    config.validate()
    stream = build_stream(config.data, sequence_length=config.sequence_length, global_batch_size=8)
    problem = (
        r"data\.sources\.a\.max_epochs=2: 75\.00% of 23k tokens are 9 epochs of its 1\.92k; use data\.sources\.a\."
    )
    with pytest.raises(DataError, match=problem):
        describe_data(config, stream, is_resumed=False)
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "data: 23k tokens from 2 sources",
        "  a  75.00%    17.3k tokens, 9 epochs of 1.92k",
        "  b  25.00%    5.76k tokens, 3 epochs of 1.92k",
        "  left out, as their weight is 0: c",
    ]
    describe_data(config, stream, is_resumed=True)
    assert "max_epochs=2" in capsys.readouterr().out
