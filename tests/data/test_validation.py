"""Validation rows: no training row has a document of them, and every caller gets the same rows."""

import dataclasses
import itertools
import logging
import multiprocessing
import os
import re
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import data.validation
from data.config import DataConfig, DataKind, SourceConfig, ValidationConfig
from data.errors import DataError
from data.fetch import retry
from data.rows import document_boundaries
from data.stream import build_stream, changed_data
from data.text.holdout import is_held_out
from data.tokenizer import DocumentEncoder
from data.validation import ValidationRows, build_validation
from tests.data.fetch.server import reset_after, serving
from tests.data.reading import assert_same, read_global

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")  # more workers than cores

SHARE = 0.25
LENGTH = 64
NAME = re.compile(r"<(\d+)>")  # documents consist of their own number: every part of one tells which it is


def text_of(number: int) -> str:
    return f"<{number}> " * (1 + number * 7 % 40)


TEXTS = {number: text_of(number) for number in range(10_000, 10_400)}
HELD_OUT = {number for number, text in TEXTS.items() if is_held_out(text, SHARE)}
NUMBERS = {"one": range(10_000, 10_300), "two": range(10_200, 10_400)}  # a hundred documents are in both


def write_texts(path: Path, numbers: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(orjson.dumps({"text": TEXTS[number]}) + b"\n" for number in numbers))


@pytest.fixture(scope="module")
def mix(sample: Path, tmp_path_factory: pytest.TempPathFactory) -> DataConfig:
    """Two sources that share documents and hold many twice; a quarter of all is held out."""
    folder = tmp_path_factory.mktemp("mix")
    for source, numbers in NUMBERS.items():
        for part in range(3):
            write_texts(folder / f"{source}/{part}.jsonl", numbers[part::3])
        write_texts(folder / f"{source}/copies.jsonl", numbers[::2])
    write_texts(folder / "own/0.jsonl", range(10_000, 10_050))
    (folder / "tokenizer.json").write_bytes((sample / "tokenizer.json").read_bytes())
    return DataConfig(
        root=str(folder),
        sources={name: SourceConfig([f"{name}/*"], 0.5) for name in NUMBERS},
        tokenizer="tokenizer.json",
        num_streams=8,
        frame_bytes=1024,
        files_per_group=2,
        validation=ValidationConfig(share=SHARE, rows=20),
    )


def decoder(config: DataConfig) -> DocumentEncoder:
    return DocumentEncoder(Path(config.root) / "tokenizer.json", config.eos_token)


def numbers_in(config: DataConfig, tokens: np.ndarray) -> set[int]:
    """The documents that rows have parts of; a number that is cut at the end of a row does not count."""
    encoder = decoder(config)
    return {int(number) for row in tokens for number in NAME.findall(encoder.decode(row))}


def built(config: DataConfig) -> ValidationRows:
    rows = build_validation(config, sequence_length=LENGTH)
    assert rows is not None
    return rows


def assert_equal_rows(left: ValidationRows, right: ValidationRows) -> None:
    for name in ("tokens", "loss_mask", "sources"):
        np.testing.assert_array_equal(getattr(left, name), getattr(right, name))
    assert left.source_names == right.source_names
    for one, other in zip(left.boundaries, right.boundaries, strict=True):
        np.testing.assert_array_equal(one, other)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
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
    contents = {results.get(timeout=60) for _ in processes}
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


def test_files_of_their_own_give_the_rows_and_training_files_are_refused(mix: DataConfig, tmp_path: Path) -> None:
    own = ValidationConfig(sources={"mine": SourceConfig(["own/*"])}, rows=5)
    rows = built(dataclasses.replace(mix, validation=own))
    assert rows.source_names == ("mine",) and len(rows.tokens) == 5
    assert numbers_in(mix, rows.tokens) <= set(range(10_000, 10_050))
    overlap = ValidationConfig(sources={"mine": SourceConfig(["own/*", "two/1*"])})
    with pytest.raises(DataError, match=r"validation\.sources\.mine\.files: two/1\.jsonl is in data\.sources\.two"):
        built(dataclasses.replace(mix, validation=overlap))
    mix_without_two = dataclasses.replace(mix, sources={"one": mix.sources["one"]}, validation=overlap)
    assert len(built(mix_without_two).tokens)


def test_a_copy_of_a_training_file_is_refused_where_hashes_are_known(mix: DataConfig, tmp_path: Path) -> None:
    for name in ("train/a.jsonl", "other/b.jsonl"):
        write_texts(tmp_path / name, range(10_000, 10_050))
    size = (tmp_path / "train/a.jsonl").stat().st_size
    entries = {name: {"bytes": size, "sha256": "a" * 64} for name in ("train/a.jsonl", "other/b.jsonl")}
    (tmp_path / "manifest.json").write_bytes(orjson.dumps({"files": entries}))
    config = dataclasses.replace(
        mix,
        root=str(tmp_path),
        tokenizer=str(Path(mix.root) / "tokenizer.json"),
        sources={"train": SourceConfig(["train/*"], 1.0)},
        validation=ValidationConfig(sources={"other": SourceConfig(["other/*"])}),
    )
    with pytest.raises(DataError, match=r"other/b\.jsonl is in data\.sources\.train too"):
        built(config)


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


def test_reading_is_bounded(mix: DataConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A large remote file is read up to the document that fills the rows, and not stored."""
    monkeypatch.setattr(retry, "FIRST_PAUSE", 0.001)
    filler = "".join(map(chr, np.random.default_rng(0).integers(97, 123, 100_000)))
    lines = [orjson.dumps({"text": f"{number} {filler}"}) for number in range(300)]
    (tmp_path / "remote/large").mkdir(parents=True)
    (tmp_path / "remote/large/a.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    own = ValidationConfig(sources={"large": SourceConfig(["large/a.jsonl"])}, rows=30)
    with serving(tmp_path / "remote") as server:
        config = dataclasses.replace(
            mix,
            root=server.url,
            tokenizer=str(Path(mix.root) / "tokenizer.json"),
            cache_dir=str(tmp_path / "cache"),
            sources={"train": SourceConfig(["train/*"], 1.0)},
            validation=own,
        )
        (tmp_path / "remote/train").mkdir()
        write_texts(tmp_path / "remote/train/a.jsonl", range(10_000, 10_050))
        config.sources = {"train": SourceConfig(["train/a.jsonl"], 1.0)}
        server.faults["large/a.jsonl"] = [reset_after(1_500_000)]
        rows = built(config)
        assert [row[:1] for row in map(decoder(mix).decode, rows.tokens)] == [str(number)[:1] for number in range(30)]
        first, second = server.starts("large/a.jsonl")
        assert first == 0 and 0 < second <= 1_500_000
    assert not list((tmp_path / "cache").rglob("a.jsonl*"))


def test_a_remote_table_gives_the_rows_of_the_table_on_disk(mix: DataConfig, tmp_path: Path) -> None:
    from datasets import Dataset

    (tmp_path / "remote/own").mkdir(parents=True)
    table = Dataset.from_dict({"text": [TEXTS[number] for number in range(10_000, 10_100)]})
    table.to_parquet(str(tmp_path / "remote/own/a.parquet"))
    write_texts(tmp_path / "remote/train/a.jsonl", range(10_200, 10_250))
    config = dataclasses.replace(
        mix,
        root=str(tmp_path / "remote"),
        tokenizer=str(Path(mix.root) / "tokenizer.json"),
        sources={"train": SourceConfig(["train/a.jsonl"], 1.0)},
        validation=ValidationConfig(sources={"own": SourceConfig(["own/a.parquet"])}),
    )
    with serving(tmp_path / "remote") as server:
        remote = dataclasses.replace(config, root=server.url, cache_dir=str(tmp_path / "cache"), max_cache_gib=0.1)
        assert_equal_rows(built(remote), built(config))


def test_no_more_than_a_bound_of_documents_is_read(mix: DataConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data.validation, "MAX_DOCUMENTS", 40)
    tokens, sources, counts = data.validation._read_all(
        data.validation._plan_text(mix, data.validation.open_root(mix.root), LENGTH)
    )
    assert counts[:, 0].max() <= 40 and len(tokens) == len(sources) < 20


def test_repetitive_rows_are_masked_here_too(mix: DataConfig, tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "own/a.jsonl").write_bytes(b"".join(orjson.dumps({"text": text}) + b"\n" for text in ["-\n" * 4000]))
    write_texts(tmp_path / "train/a.jsonl", range(10_000, 10_010))
    config = dataclasses.replace(
        mix,
        root=str(tmp_path),
        tokenizer=str(Path(mix.root) / "tokenizer.json"),
        sources={"train": SourceConfig(["train/*"], 1.0)},
        validation=ValidationConfig(sources={"own": SourceConfig(["own/*"])}),
    )
    assert built(config).loss_mask.tolist() == [False]
    config.repetition_filter = dataclasses.replace(config.repetition_filter, enabled=False)
    assert built(config).loss_mask.tolist() == [True]


def token_config(folder: Path) -> DataConfig:
    names = []
    for number, source in enumerate(("train/a", "train/b", "valid/x", "valid/x", "valid/y")):
        name = f"mix/{source}/part-{number}.npy"
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (np.arange(LENGTH * (5 + number) + 3, dtype="<u4") + 10_000 * number).tofile(folder / name)
        names.append(name)
    (folder / "files.txt").write_text("\n".join(names[:2]))
    (folder / "validation.txt").write_text("\n".join(names[2:]))
    (folder / "overlap.txt").write_text("\n".join(names[1:]))
    return DataConfig(
        DataKind.tokens,
        root=str(folder),
        file_list=str(folder / "files.txt"),
        eos_token_id=0,
        validation=ValidationConfig(file_list=str(folder / "validation.txt"), rows=9),
    )


@pytest.mark.parametrize("remote", [False, True])
def test_token_files_of_their_own_give_their_first_rows_and_do_not_change_the_order(
    tmp_path: Path, remote: bool
) -> None:
    config = token_config(tmp_path / "files")
    plain = dataclasses.replace(config, validation=ValidationConfig())
    expected, _ = read_global(plain, 6, length=LENGTH, batch_size=4)
    with serving(tmp_path / "files") as server:
        if remote:
            config = dataclasses.replace(config, root=server.url, cache_dir=str(tmp_path / "cache"))
        rows = built(config)
        assert rows.source_names == ("x", "y") and rows.sources.tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
        firsts = [20_000, 20_000 + LENGTH, 30_000, 30_000 + LENGTH, *(40_000 + LENGTH * row for row in range(4))]
        np.testing.assert_array_equal(rows.tokens, np.array(firsts)[:, None] + np.arange(LENGTH))
        assert rows.loss_mask.all() and all(row.tolist() == [0, LENGTH] for row in rows.boundaries)
        assert_same(expected, read_global(config, 6, length=LENGTH, batch_size=4)[0])
        shape = {"sequence_length": LENGTH, "global_batch_size": 4}
        assert build_stream(config, **shape).fingerprint == build_stream(plain, **shape).fingerprint


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"file_list": "{folder}/overlap.txt"}, r"mix/train/b/part-1\.npy is in data\.file_list too"),
        ({"file_list": "{folder}/none.txt"}, r"data\.validation\.file_list: there is no file"),
        ({"file_list": None, "share": 0.1}, r"data\.validation\.share is for data\.kind=text"),
        ({"sources": {"a": SourceConfig(["*"])}}, r"data\.validation\.sources is for data\.kind=text"),
        ({"rows": 0}, r"data\.validation\.rows must be 1 or more"),
    ],
)
def test_mistakes_with_token_files_get_one_line(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    config = token_config(tmp_path)
    filled: dict[str, Any] = {
        key: value.format(folder=tmp_path) if isinstance(value, str) else value for key, value in changes.items()
    }
    config.validation = dataclasses.replace(config.validation, **filled)
    with pytest.raises(DataError, match=message) as error:
        built(config)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        (ValidationConfig(share=1.0), r"data\.validation\.share must be 0 or more and below 1"),
        (ValidationConfig(share=float("nan")), r"data\.validation\.share must be 0 or more and below 1"),
        (
            ValidationConfig(share=0.1, sources={"a": SourceConfig(["*"])}),
            r"cannot be used with data\.validation",
        ),
        (ValidationConfig(sources={"a": SourceConfig()}), r"data\.validation\.sources\.a\.files is empty"),
        (ValidationConfig(sources={"a": SourceConfig(["none/*"])}), r"data\.validation\.sources\.a\.files: 'none/\*'"),
        (ValidationConfig(file_list="x"), r"data\.validation\.file_list is for data\.kind=tokens"),
    ],
)
def test_mistakes_with_text_get_one_line(mix: DataConfig, chosen: ValidationConfig, message: str) -> None:
    with pytest.raises(DataError, match=message) as error:
        built(dataclasses.replace(mix, validation=chosen))
    assert "\n" not in str(error.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_token_files_on_a_disk_that_cannot_be_written_to_are_read(tmp_path: Path) -> None:
    config = token_config(tmp_path)
    tmp_path.chmod(0o555)
    try:
        assert len(built(config).tokens) == 8
    finally:
        tmp_path.chmod(0o755)
