"""Validation rows held out of training: no training row has a document of them, and every caller gets the same rows."""

import dataclasses
import itertools
import logging
import multiprocessing
from collections import Counter
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import data.validation
from data.config import DataConfig, SourceConfig, ValidationConfig
from data.errors import DataError
from data.rows import document_boundaries
from data.stream import build_stream, changed_data
from data.text.holdout import is_held_out
from data.validation import build_validation, validation_documents
from tests.data.fetch.server import serving
from tests.data.reading import assert_same, read_global
from tests.data.validating import (
    HELD_OUT,
    LENGTH,
    NAME,
    NUMBERS,
    TEXTS,
    assert_equal_rows,
    built,
    decoder,
    numbers_in,
    write_texts,
)


@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(draw=st.data())
def test_no_held_out_document_is_trained_on_for_any_topology_and_after_every_resume(
    draw: st.DataObject, mix: DataConfig
) -> None:
    config = dataclasses.replace(
        mix, seed=draw.draw(st.integers(0, 99)), frame_bytes=draw.draw(st.sampled_from([256, 4096, 65536]))
    )
    expected, _ = read_global(config, 30, length=LENGTH)
    state, step = None, 0
    while step < 30:
        num_steps = draw.draw(st.integers(5, 30))
        batches, state = read_global(
            config,
            min(num_steps, 30 - step),
            world_size=draw.draw(st.sampled_from([1, 2, 4, 8])),
            num_workers=draw.draw(st.sampled_from([0, 2])),
            state=state,
            length=LENGTH,
        )
        assert_same(expected[step : step + len(batches)], batches)
        step += len(batches)
    seen = set().union(*(numbers_in(config, batch.tokens) for batch in expected))
    assert not seen & HELD_OUT
    assert len(seen) > 100


def test_validation_rows_hold_only_documents_that_are_held_out_each_once(mix: DataConfig) -> None:
    rows = built(mix)
    assert (rows.tokens.dtype, rows.loss_mask.dtype, rows.sources.dtype) == (np.uint32, bool, np.int16)
    assert rows.source_names == build_stream(mix, sequence_length=LENGTH, global_batch_size=8).source_names
    assert np.bincount(rows.sources).tolist() == [10, 10]
    assert numbers_in(mix, rows.tokens) <= HELD_OUT
    encoder = decoder(mix)
    for source in range(2):
        found: Counter[int] = Counter()
        for row, boundaries in zip(rows.tokens, rows.boundaries, strict=True):
            np.testing.assert_array_equal(boundaries, document_boundaries(row, encoder.eos_token_id))
        for index in np.flatnonzero(rows.sources == source):
            boundaries = rows.boundaries[index]
            for start, stop in itertools.pairwise(boundaries):
                tokens = rows.tokens[index, start:stop]
                match = NAME.match(encoder.decode(tokens))
                if match is None:  # cut at the end of the row, before its number was complete
                    assert stop == LENGTH
                    continue
                whole = encoder.encode([TEXTS[int(match[1])]])
                np.testing.assert_array_equal(tokens, whole[: len(tokens)])  # from its beginning
                assert len(tokens) == len(whole) or stop == LENGTH
                found[int(match[1])] += 1
        assert len(found) > 10 and set(found.values()) == {1}
        assert found.keys() <= set(NUMBERS[rows.source_names[source]])


def test_whole_documents_come_in_the_order_of_the_rows(mix: DataConfig) -> None:
    rows, encoder = built(mix), decoder(mix)
    for source, (name, documents) in enumerate(validation_documents(mix)):
        assert name == rows.source_names[source]
        tokens = np.concatenate([encoder.encode_pieces(pieces)[0] for pieces in documents])
        first, *_ = np.flatnonzero(rows.sources == source)
        np.testing.assert_array_equal(tokens[:LENGTH], rows.tokens[first])
        found = [int(number) for number in NAME.findall(encoder.decode(tokens))]
        assert len(set(found)) > 20 and set(found) <= HELD_OUT & set(NUMBERS[name])
    no_share = dataclasses.replace(mix, validation=ValidationConfig())
    assert not list(validation_documents(no_share))


def test_a_share_of_zero_changes_nothing_and_another_share_is_named(mix: DataConfig) -> None:
    plain = dataclasses.replace(mix, validation=ValidationConfig())
    assert build_validation(plain, sequence_length=LENGTH) is None
    stream = build_stream(plain, sequence_length=LENGTH, global_batch_size=8)
    assert not any("validation" in key for key in stream.fingerprint)
    own = ValidationConfig(sources={"own": SourceConfig(["own/*"])})
    with_files = dataclasses.replace(mix, validation=own)
    assert build_stream(with_files, sequence_length=LENGTH, global_batch_size=8).fingerprint == stream.fingerprint
    held_out = build_stream(mix, sequence_length=LENGTH, global_batch_size=8).fingerprint
    assert changed_data(stream.fingerprint, held_out) == {"data.validation.share": (None, "0.25")}


def test_a_larger_share_holds_out_what_a_smaller_one_does() -> None:
    texts = [f"document {number}" for number in range(20_000)]
    small, large = ({text for text in texts if is_held_out(text, share)} for share in (0.05, 0.2))
    assert small < large
    assert len(small) == pytest.approx(1000, rel=0.1) and len(large) == pytest.approx(4000, rel=0.1)
    assert not any(is_held_out(text, 0.0) for text in texts)


@pytest.mark.parametrize(("text", "fraction"), [("", 0.17588043), ("é漢", 0.55832044)])
def test_the_hash_of_a_text_never_changes(text: str, fraction: float) -> None:
    """The fractions are those of XXH3, 64 bits, of the UTF-8 bytes; 0x2d06800538d394c2 for no text at all."""
    assert is_held_out(text, fraction + 1e-6) and not is_held_out(text, fraction - 1e-6)


def _build(config: DataConfig, results: "multiprocessing.Queue[bytes]") -> None:
    results.put(built(config).tokens.tobytes())


def test_ranks_that_ask_at_once_and_every_later_start_get_the_same_rows(mix: DataConfig, tmp_path: Path) -> None:
    config = dataclasses.replace(mix, cache_dir=str(tmp_path / "shared"))
    results: multiprocessing.Queue[bytes] = multiprocessing.Queue()
    processes = [multiprocessing.Process(target=_build, args=(config, results)) for _ in range(4)]
    for process in processes:
        process.start()
    contents = {results.get(timeout=600) for _ in processes}
    for process in processes:
        process.join()
    expected = built(mix)
    assert contents == {expected.tokens.tobytes()}
    other = dataclasses.replace(
        mix, seed=7, num_streams=4, frame_bytes=4096, files_per_group=1, cache_dir=str(tmp_path / "other")
    )
    assert_equal_rows(built(other), expected)


def test_kept_rows_that_are_damaged_or_cannot_be_kept_are_read_again(mix: DataConfig, tmp_path: Path) -> None:
    config = dataclasses.replace(mix, cache_dir=str(tmp_path / "cache"))
    expected = built(config)
    (kept,) = (tmp_path / "cache").glob("validation-*.npz")
    assert_equal_rows(built(config), expected)
    whole = kept.read_bytes()
    for damaged in (whole[:100], b"", whole[: len(whole) // 2] + b"\0\0\0\0" + whole[len(whole) // 2 + 4 :]):
        kept.write_bytes(damaged)
        assert_equal_rows(built(config), expected)
    (tmp_path / "file").touch()
    assert_equal_rows(built(dataclasses.replace(mix, cache_dir=str(tmp_path / "file/cache"))), expected)


def test_reading_validation_rows_leaves_the_training_stream_as_it_is(mix: DataConfig) -> None:
    expected, end = read_global(mix, 6, length=LENGTH)
    with closing(build_stream(mix, sequence_length=LENGTH, global_batch_size=16)) as stream:
        batches = []
        for _ in range(6):
            built(mix)
            batches.append(stream.next_batch())
        assert stream.state_dict()["streams"] == end["streams"]
    assert_same(expected, batches)


def test_a_source_without_held_out_documents_is_a_warning_and_no_rows_are_an_error(
    mix: DataConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kept = next(number for number in TEXTS if number not in HELD_OUT)
    write_texts(tmp_path / "few/0.jsonl", [kept])
    write_texts(tmp_path / "many/0.jsonl", TEXTS)
    config = dataclasses.replace(
        mix,
        root=str(tmp_path),
        tokenizer=str(Path(mix.root) / "tokenizer.json"),
        sources={name: SourceConfig([f"{name}/*"], 0.5) for name in ("few", "many")},
    )
    for _ in range(2):  # read, and kept
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            assert set(built(config).sources) == {1}
        (message,) = [record.getMessage() for record in caplog.records]
        assert (
            "source few has no row of 64 tokens (0 held-out documents of 1 read); raise data.validation.share"
            in message
        )
    config.sources.pop("many")
    with pytest.raises(DataError, match=r"there is no row of 64 tokens; raise data\.validation\.share \(now 0\.25\)"):
        built(config)


def test_a_source_that_is_held_out_as_a_whole_is_refused_instead_of_searched_forever(
    mix: DataConfig, tmp_path: Path
) -> None:
    write_texts(tmp_path / "held/0.jsonl", list(HELD_OUT)[:5])
    config = dataclasses.replace(
        mix,
        root=str(tmp_path),
        tokenizer=str(Path(mix.root) / "tokenizer.json"),
        sources={"held": SourceConfig(["held/*"], 1.0)},
    )
    with pytest.raises(DataError, match=r"data\.sources\.held: data\.validation\.share = 0\.25 holds out all"):
        build_stream(config, sequence_length=LENGTH, global_batch_size=8)
    with serving(tmp_path) as server:  # files of a remote root are not read before the first batch
        remote = dataclasses.replace(
            config,
            root=server.url,
            cache_dir=str(tmp_path / "cache"),
            sources={"held": SourceConfig(["held/0.jsonl"], 1)},
        )
        stream = build_stream(remote, sequence_length=LENGTH, global_batch_size=8)
        with pytest.raises(DataError, match="holds out all"):
            stream.next_batch()


def test_one_document_that_is_not_held_out_feeds_all_streams(mix: DataConfig, tmp_path: Path) -> None:
    kept = next(number for number in TEXTS if number not in HELD_OUT)
    write_texts(tmp_path / "held/0.jsonl", [*list(HELD_OUT)[:5], kept])
    config = dataclasses.replace(
        mix,
        root=str(tmp_path),
        tokenizer=str(Path(mix.root) / "tokenizer.json"),
        sources={"held": SourceConfig(["held/*"], 1.0)},
    )
    batches, _ = read_global(config, 3, length=LENGTH)
    assert numbers_in(mix, np.concatenate([batch.tokens for batch in batches])) == {kept}


def test_no_more_than_a_bound_of_documents_is_read(mix: DataConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data.validation, "MAX_DOCUMENTS", 40)
    tokens, sources, counts = data.validation._read_all(
        data.validation._plan_text(mix, data.validation.open_root(mix.root), LENGTH)
    )
    assert counts[:, 0].max() <= 40 and len(tokens) == len(sources) < 20
