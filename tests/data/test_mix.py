"""What is said about the mix: shares, tokens close to those counted, and an error for too many passes."""

from contextlib import closing

import pytest

from data.config import DataConfig
from data.fetch.roots import open_root
from data.mix import SourceMix, describe_mix, human, too_many_epochs
from data.stream import build_stream
from data.text.backend import TextBackend, training_files
from data.tools.inspect import summarise
from data.tools.summary import SourceSummary


def test_tokens_of_text_are_estimated_from_the_files_that_are_read(config: DataConfig) -> None:
    config.validation.share = 0.1
    backend = TextBackend(config, 64, 8)
    counted: dict[str, SourceSummary] = {
        item.name: item for item in summarise(training_files(config, open_root(config.root)), backend.encoder)
    }
    for source in backend.mix():
        assert source.num_tokens == pytest.approx(0.9 * counted[source.name].num_tokens, rel=0.25), source.name
    assert sum(source.share for source in backend.mix()) == pytest.approx(1.0)


def test_the_lines_say_share_tokens_and_epochs_of_each_source() -> None:
    mix = [
        SourceMix("notes", 0.3, 2_500_000.0, False, 4),
        SourceMix("books", 0.6, None, False),
        SourceMix("code", 0.1, 6_000_000_000.0, False),
    ]
    assert list(describe_mix(mix, 60_000_000, ["old"])) == [
        "data: 60M tokens from 3 sources",
        "  books  60.00%      36M tokens; how many it has is known once its files are read",
        "  notes  30.00%      18M tokens, about 7.2 epochs of 2.5M",
        "  code   10.00%       6M tokens, under 0.01 epochs of 6B",
        "  left out, as their weight is 0: old",
    ]


def test_more_passes_than_allowed_are_an_error_with_the_weight_that_fits() -> None:
    mix = [SourceMix("notes", 0.3, 2_500_000.0, True, 4), SourceMix("books", 0.7, 1e9, True)]
    problem = too_many_epochs(mix, 60_000_000, {"notes": 3.0, "books": 7.0})
    assert problem == (
        "data.sources.notes.max_epochs=4: 30.00% of 60M tokens are 7.2 epochs of its 2.5M; use "
        "data.sources.notes.weight=1.4, fewer max_steps, more files, or a higher max_epochs"
    )
    fitting = [SourceMix("notes", 1.4 / 8.4, 2_500_000.0, True, 4), mix[1]]
    assert too_many_epochs(fitting, 60_000_000, {"notes": 1.4, "books": 7.0}) is None


def test_an_estimate_may_exceed_the_limit_by_a_little() -> None:
    for tokens, is_too_many in ((60_000_000 / 4.1, False), (60_000_000 / 4.3, True)):
        mix = [SourceMix("a", 1.0, tokens, False, 4)]
        assert (too_many_epochs(mix, 60_000_000, {"a": 1.0}) is not None) == is_too_many


def test_a_repeat_of_text_is_said_on_the_step_that_begins_it(
    config: DataConfig, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "data.stream")
    config.sources = {"code": config.sources["code"]}
    with closing(build_stream(config, sequence_length=64, global_batch_size=8)) as stream:
        step, seen_apart = 0, False
        epochs = [0]  # that the streams are in, of which each ends its share by itself
        while min(epochs) == 0:
            assert not repeats(caplog), "a part of the source is not read yet"
            stream.next_batch()
            step += 1
            state = stream.state_dict()
            seen_apart = seen_apart or min(epochs) < max(epochs)
            epochs = [cursor["cursors"][0][0] for cursor in state["streams"].values()]
        assert seen_apart
        assert repeats(caplog) == [f"data: source code begins again in step {step}: epoch 2"]
    caplog.clear()
    with closing(build_stream(config, sequence_length=64, global_batch_size=8)) as stream:
        stream.load_state_dict(state)
        stream.next_batch()
    assert not repeats(caplog)


def repeats(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if "begins again" in record.getMessage()]


def test_numbers_are_short() -> None:
    assert [human(number) for number in (7, 1234, 999_600, 50.02e9)] == ["7", "1.23k", "1M", "50B"]
