"""What is said about the mix: shares, tokens close to those counted, and an error for too many passes."""

import re
from contextlib import closing
from pathlib import Path

import orjson
import pytest

from data.__main__ import main
from data.config import DataConfig, SourceConfig, ValidationConfig
from data.fetch.roots import open_root
from data.mix import SourceMix, describe_mix, human, too_many_epochs
from data.stream import build_stream
from data.text.backend import TextBackend, training_files
from data.text.holdout import is_held_out
from data.tokenizer import DocumentEncoder
from data.tools.inspect import load_data_config
from data.tools.summary import SourceSummary, summarise


def test_tokens_of_text_are_estimated_from_the_files_that_are_read(config: DataConfig, tmp_path: Path) -> None:
    config.validation.share = 0.1
    config.cache_dir = str(tmp_path)  # in which no file is ingested yet
    backend = TextBackend(config, 64, 8)
    files = training_files(config, open_root(config.root))
    counted: dict[str, SourceSummary] = {item.name: item for item in summarise(files, backend.encoder, 0.1)}
    mix = backend.mix()
    for source in mix:
        margin = 0.0 if source.is_exact else 0.25
        assert source.num_tokens == pytest.approx(counted[source.name].training_tokens, rel=margin), source.name
    assert {source.is_exact for source in mix} == {True, False}
    assert sum(source.share for source in mix) == pytest.approx(1.0)


@pytest.mark.parametrize("share", [0.0, 0.2])
def test_a_small_source_is_counted_without_what_is_held_out(config: DataConfig, tmp_path: Path, share: float) -> None:
    for number in range(9):
        (tmp_path / f"{number}.txt").write_text(f"note {number} " * (1 + number**2))
    notes = {"notes": SourceConfig(["*.txt"], 1.0)}
    tokenizer, held_out = f"{config.root}/tokenizer.json", ValidationConfig(share=share)
    config = DataConfig(root=str(tmp_path), sources=notes, tokenizer=tokenizer, validation=held_out)
    config.files_per_group, config.num_streams = 20, 8
    backend = TextBackend(config, 64, 8)
    (source,) = backend.mix()
    texts = [f"note {number} " * (1 + number**2) for number in range(9)]
    kept = [text for text in texts if not is_held_out(text, share)]
    assert (len(kept) < len(texts)) == (share > 0.0)
    assert source.is_exact and source.num_tokens == len(backend.encoder.encode(kept))


def test_inspect_refuses_what_the_launch_refuses(
    config: DataConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = [f"note {number}, of a few words " * (1 + number % 3) for number in range(60)]
    (tmp_path / "notes.jsonl").write_bytes(b"".join(orjson.dumps({"text": text}) + b"\n" for text in texts))
    values = {
        "root": str(tmp_path),
        "tokenizer": str(Path(config.root) / "tokenizer.json"),
        "num_streams": 8,
        "sources": {"notes": {"files": ["notes.jsonl"], "weight": 1, "max_epochs": 2}},
        "validation": {"share": 0.25, "rows": 8},
    }
    path = tmp_path / "mine.yaml"
    path.write_bytes(orjson.dumps(values))
    config = load_data_config(path)
    encoder = DocumentEncoder(Path(str(config.tokenizer)), config.eos_token)
    in_all = len(encoder.encode(texts))
    kept = [text for text in texts if not is_held_out(text, 0.25)]
    trained = len(encoder.encode(kept))
    steps = round(2.1 * trained / 64)  # a step of 8 rows of 8 tokens
    assert steps * 64 < 2 * in_all, "as many epochs of all documents are allowed"
    with closing(build_stream(config, sequence_length=8, global_batch_size=8)) as stream:
        problem = too_many_epochs(stream.mix(), steps * 64, {"notes": 1.0})
    assert problem and "are 2.11 epochs" in problem
    arguments = ["inspect", str(path), "--sequence-length", "8", "--batch-size", "8", "--steps"]
    assert main([*arguments, str(steps)]) == 2
    printed = capsys.readouterr()
    assert printed.err == f"error: {problem}\n"
    assert f"holds out {len(texts) - len(kept)} documents, {in_all - trained:,} tokens" in printed.out
    assert main([*arguments, str(steps * 9 // 10)]) == 0
    path.write_bytes(orjson.dumps({**values, "validation": {"share": 0.999}}))
    assert main([*arguments, "1"]) == 2
    assert "data.validation.share = 0.999 holds out all of its documents" in capsys.readouterr().err


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


def test_a_repeat_of_text_is_said_when_half_of_the_streams_begin_it(
    config: DataConfig, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "data.stream")
    config.sources = {"code": config.sources["code"]}
    with closing(build_stream(config, sequence_length=64, global_batch_size=8)) as stream:
        step, seen_apart = 0, False
        epochs = [0]  # that the streams are in, of which each ends its share by itself
        while sum(epoch > 0 for epoch in epochs) < 4:
            assert not repeats(caplog), "more than half of the streams are in the first epoch"
            stream.next_batch()
            step += 1
            state = stream.state_dict()
            seen_apart = seen_apart or min(epochs) < max(epochs)
            epochs = [cursor["cursors"][0][0] for cursor in state["streams"].values()]
        assert seen_apart and len(epochs) == 8
        assert repeats(caplog) == [f"data: source code begins again in step {step}: epoch 2"]
    caplog.clear()
    with closing(build_stream(config, sequence_length=64, global_batch_size=8)) as stream:
        stream.load_state_dict(state)
        stream.next_batch()
    assert not repeats(caplog)


def test_a_repeat_is_said_near_the_step_in_which_as_much_as_the_source_is_read(
    sample: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "data.stream")
    for name, count in (("books", 1000), ("notes", 50)):
        texts = [f"{name} {number}, of a few words " * 12 for number in range(count)]
        (tmp_path / f"{name}.jsonl").write_bytes(b"".join(orjson.dumps({"text": text}) + b"\n" for text in texts))
    sources = {"books": SourceConfig(["books.jsonl"], 70), "notes": SourceConfig(["notes.jsonl"], 30, max_epochs=2)}
    config = DataConfig(root=str(tmp_path), sources=sources, tokenizer=str(sample.absolute() / "tokenizer.json"))
    config.num_streams = 24
    with closing(build_stream(config, sequence_length=64, global_batch_size=24)) as stream:
        notes = stream.mix()[1].num_tokens or 0.0
        steps = notes / (0.3 * 24 * 64)  # of an epoch
        for _ in range(round(2.5 * steps)):
            stream.next_batch()
    found = [re.findall(r"source notes begins again in step (\d+): epoch (\d)(.*)", line) for line in repeats(caplog)]
    second, third = (match for matches in found for match in matches)
    assert second[1:] == ("2", "") and third[1:] == ("3", ", and data.sources.notes.max_epochs is 2")
    assert int(second[0]) == pytest.approx(steps, rel=0.2) and int(third[0]) == pytest.approx(2 * steps, rel=0.2)


def repeats(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if "begins again" in record.getMessage()]


def test_numbers_are_short() -> None:
    assert [human(number) for number in (7, 1234, 999_600, 50.02e9)] == ["7", "1.23k", "1M", "50B"]
