"""Every way to bring data: each example of docs/data.md is inspected and trained on, and every mistake is one line."""

import gzip
import re
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from data.__main__ import main
from data.config import DataConfig, DataKind, SourceConfig, TokenDtype, ValidationConfig
from data.errors import DataError
from data.stream import build_stream
from data.tokenizer import DocumentEncoder
from data.tools.inspect import load_data_config
from data.validation import build_validation
from tests.data.fetch.server import serving
from tests.data.reading import assert_same, read_global

DOCS = Path(__file__).parents[2] / "docs/data.md"
EXAMPLES = re.findall(r"\n    # (\S+\.yaml)[^\n]*\n((?:    .*\n|\n)+)", DOCS.read_text())
TEMPLATE = "{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content + '\n' }}{% endfor %}"


def texts(name: str, count: int = 40) -> list[str]:
    return [f"{name} number {n}, which has a few words more.\n" for n in range(count)]


def write_lines(path: Path, records: list[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(orjson.dumps(record) + b"\n" for record in records))


@pytest.fixture(scope="module")
def brought(sample: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all that the examples name."""
    from datasets import Dataset

    root = tmp_path_factory.mktemp("brought") / "corpora/mine"
    write_lines(root / "books/a.jsonl", [{"content": text, "meta": {"body": text}} for text in texts("book")])
    write_lines(root / "notes/b.jsonl", [{"text": text} for text in texts("note")])
    (root / "array/all.json").parent.mkdir()
    (root / "array/all.json").write_bytes(
        orjson.dumps([{"text": t} for t in texts("item")], option=orjson.OPT_INDENT_2)
    )
    (root / "plain").mkdir()
    for number, text in enumerate(texts("plain")):
        (root / f"plain/{number}.txt").write_text(text)
    (root / "plain/poems.txt.gz").parent.mkdir(exist_ok=True)
    (root / "plain/poems.txt.gz").write_bytes(gzip.compress("\n\n".join(texts("poem")).encode()))
    talks = [[{"role": "user", "content": text}, {"role": "assistant", "content": "Yes."}] for text in texts("talk")]
    Dataset.from_dict({"messages": talks, "source": ["s"] * len(talks)}).to_parquet(str(root / "chat/talks.parquet"))
    Dataset.from_dict({"text": texts("saved")}).save_to_disk(str(root / "saved"))
    encoder = DocumentEncoder(sample / "tokenizer.json", "<|endoftext|>")
    tokens = encoder.encode([*texts("token", 200)])
    (root / "tokens").mkdir()
    np.save(root / "tokens/header-uint16.npy", tokens.astype(np.uint16))
    np.save(root / "tokens/header-uint32.npy", tokens.astype(np.uint32))
    tokens.astype("<u2").tofile(root / "tokens/raw-uint16.npy")
    tokens.astype("<u4").tofile(root / "tokens/raw-uint32.npy")
    for kind in ("header-uint16", "raw-uint16", "raw-uint32"):
        (root / f"tokens/{kind}.txt").write_text(f"tokens/{kind}.npy\n")
    (root / "tokenizer.json").write_bytes((sample / "tokenizer.json").read_bytes())
    (root / "tokenizer_config.json").write_bytes(orjson.dumps({"chat_template": TEMPLATE}))
    return root


@pytest.fixture
def in_place(brought: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(brought.parents[1])
    monkeypatch.setenv("COLUMNS", "160")
    yield brought


def test_the_page_has_an_example_of_every_kind() -> None:
    names = [name for name, _ in EXAMPLES]
    assert len(names) == len(set(names)) >= 7


@pytest.mark.parametrize(("name", "example"), EXAMPLES, ids=[name for name, _ in EXAMPLES])
def test_an_example_of_the_page_can_be_inspected_and_trained_on(
    in_place: Path, tmp_path: Path, name: str, example: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / name
    path.write_text(re.sub(r"(?m)^ {4}", "", example))
    arguments = [str(path), "--rows", "1", "--sequence-length", "32", "--batch-size", "4", "--steps", "4"]
    assert main(["inspect", *arguments]) == 0
    printed = capsys.readouterr().out
    config = load_data_config(path)
    for source, settings in config.sources.items():
        assert (f"--- {source}, row 0" in printed) == (settings.weight > 0.0)
    assert f"data: 512 tokens from {sum(source.weight > 0.0 for source in config.sources.values())} source" in printed
    config.num_streams = 4
    whole, _ = read_global(config, 5, batch_size=8, length=32)
    begun, state = read_global(config, 2, batch_size=8, length=32, world_size=2, num_workers=1)
    resumed, _ = read_global(config, 3, batch_size=8, length=32, state=state)
    assert_same(whole, begun + resumed)
    if config.kind is DataKind.text:
        config.validation = ValidationConfig(share=0.25, rows=8)
        rows = build_validation(config, sequence_length=32)
        assert rows is not None and len(rows.tokens)
        trained, _ = read_global(config, 12, batch_size=8, length=32)
        held_out = documents(config, rows.tokens)
        assert held_out and not held_out & documents(config, *(batch.tokens for batch in trained))


def documents(config: DataConfig, *rows: np.ndarray) -> set[str]:
    """The names of all documents in these rows, each "KIND number N"."""
    encoder = DocumentEncoder(Path(config.root) / "tokenizer.json", config.eos_token)
    shown = " ".join(encoder.decode(row) for block in rows for row in block)
    return set(re.findall(r"\w+ number \d+(?=,)", shown))


def test_every_way_of_storing_ids_gives_the_same_rows(in_place: Path) -> None:
    found = []
    for kind in ("header-uint16", "header-uint32", "raw-uint16", "raw-uint32"):
        dtype = TokenDtype.uint16 if kind == "raw-uint16" else TokenDtype.uint32
        source = SourceConfig([f"tokens/{kind}.npy"], 1.0, token_dtype=dtype)
        config = DataConfig(DataKind.tokens, str(in_place), {"a": source}, eos_token_id=0)
        found.append(read_global(config, 3, batch_size=4, length=32)[0])
    for batches in found[1:]:
        assert_same(found[0], batches)


def test_sources_of_tokens_are_mixed_by_weight_and_read_whole(tmp_path: Path) -> None:
    for name, first in (("a", 0), ("b", 1000)):
        np.arange(first, first + 50 * 8, dtype="<u4").tofile(tmp_path / f"{name}.npy")
    sources = {"a": SourceConfig(["a.npy"], 3.0), "b": SourceConfig(["b.npy"], 1.0), "c": SourceConfig(["c.npy"], 0.0)}
    config = DataConfig(DataKind.tokens, root=str(tmp_path), sources=sources, eos_token_id=5000)
    batches, state = read_global(config, 25, batch_size=8, length=8)
    rows = np.concatenate([batch.tokens for batch in batches])
    of_b = rows[:, 0] >= 1000
    assert 49 <= of_b.sum() <= 51
    assert len(np.unique(rows[~of_b][:50, 0])) == 50, "an epoch of a source is each of its rows once"
    again, _ = read_global(config, 2, batch_size=8, length=8, state=state, world_size=4)
    straight, _ = read_global(config, 27, batch_size=8, length=8)
    assert_same(again, straight[25:])


def test_a_repeat_is_said_when_it_begins_and_once(in_place: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "data.stream")
    sources = {"a": SourceConfig(["tokens/raw-uint32.npy"], 1.0, max_epochs=2)}
    config = DataConfig(DataKind.tokens, root=str(in_place), sources=sources, eos_token_id=0)
    with closing(build_stream(config, sequence_length=64, global_batch_size=4)) as stream:
        (source,) = stream.mix()
        num_rows = int((source.num_tokens or 0) / 64)
        for _ in range(3 * num_rows // 4):
            stream.next_batch()
    lines = [record.getMessage() for record in caplog.records]
    first = num_rows // 4 + 1
    assert lines == [
        f"data: source a begins again in step {first}: epoch 2",
        f"data: source a begins again in step {2 * num_rows // 4 + 1}: epoch 3, and data.sources.a.max_epochs is 2",
    ]


MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    "another-key": ({"files": ["books/*"]}, r"its fields are content \(text\), meta: set data\.sources\.a\.text_key"),
    "nested": ({"files": ["books/*"], "text_key": "meta.boby"}, r"no text in 'meta\.boby'; its fields are content"),
    "column": (
        {"files": ["chat/*.parquet"]},
        r"no column `text`, but messages, source; set data\.sources\.a\.text_key",
    ),
    "messages": (
        {"files": ["notes/*"], "messages_key": "talk"},
        r"has no list of messages in 'talk'; its fields are text",
    ),
    "folder": ({"files": ["empty"]}, r"data\.sources\.a\.files: the folder .*empty holds no text files"),
    "empty": (
        {"files": ["void/*.jsonl"]},
        r"data\.sources\.a: its files hold no documents; correct the files or give it",
    ),
    "weight": ({"files": ["notes/*"], "weight": 0}, r"no weight above 0; .* as in data\.sources\.a\.weight=1"),
    "splits": ({"files": ["splits"]}, r"splits holds the splits test, train of a dataset; name the one .* splits/test"),
    "both": ({"files": ["x"], "text_key": "a", "messages_key": "b"}, r"messages_key cannot be used with text_key"),
    "template": ({"files": ["x"], "chat_template": "a.jinja"}, r"chat_template needs messages_key"),
    "epochs": ({"files": ["notes/*"], "max_epochs": 0}, r"data\.sources\.a\.max_epochs must be above 0"),
    "unknown": ({"file": ["x"]}, r"unknown\.yaml: sources\.a\.file: Key 'file' not in 'SourceConfig'"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line(in_place: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    (in_place / "empty").mkdir(exist_ok=True)
    write_lines(in_place / "void/a.jsonl", [])
    for split in ("train", "test"):
        (in_place / "splits" / split).mkdir(parents=True, exist_ok=True)
    (in_place / "splits/dataset_dict.json").touch()
    settings, message = MISTAKES[name]
    sources = {"a": {"weight": 1, **settings}}
    path = tmp_path / f"{name}.yaml"
    path.write_bytes(orjson.dumps({"root": str(in_place), "tokenizer": "tokenizer.json", "sources": sources}))
    with pytest.raises(DataError, match=message) as error:
        build_stream(load_data_config(path), sequence_length=32, global_batch_size=64)
    assert "\n" not in str(error.value)
    main(["inspect", str(path)])
    printed = capsys.readouterr()
    assert printed.err.count("\n") <= 1 and re.search(message, printed.out + printed.err)


def test_what_save_to_disk_puts_beside_tables_is_no_text(in_place: Path) -> None:
    configs = [
        DataConfig(root=str(in_place), sources={"a": SourceConfig([pattern], 1.0)}, tokenizer="tokenizer.json")
        for pattern in ("saved", "saved/*", "saved/*.arrow")
    ]
    first, *others = [read_global(config, 2, batch_size=64, length=16)[0] for config in configs]
    for batches in others:
        assert_same(first, batches)


def test_token_files_that_are_trained_on_are_no_validation_files(in_place: Path) -> None:
    sources = {"a": SourceConfig(["tokens/header-*.npy"], 1.0)}
    config = DataConfig(DataKind.tokens, root=str(in_place), sources=sources, eos_token_id=0)
    config.validation = ValidationConfig(file_list=str(in_place / "tokens/header-uint16.txt"), rows=4)
    with pytest.raises(DataError, match=r"header-uint16\.npy is in data\.sources\.a too, and is trained on"):
        build_validation(config, sequence_length=32)
    config.validation.file_list = str(in_place / "tokens/raw-uint32.txt")
    rows = build_validation(config, sequence_length=32)
    assert rows is not None
    np.testing.assert_array_equal(rows.tokens.reshape(-1), np.fromfile(in_place / "tokens/raw-uint32.npy", "<u4")[:128])


@pytest.mark.parametrize(("num_tokens", "problem"), [(64, r"holds token id \d{6,}"), (65, "is truncated: 130 bytes")])
def test_ids_of_two_bytes_without_a_header_are_recognised(
    in_place: Path, tmp_path: Path, num_tokens: int, problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    np.arange(1, num_tokens + 1, dtype="<u2").tofile(tmp_path / "raw.npy")
    tokenizer = str(in_place.absolute() / "tokenizer.json")
    sources = {"a": {"files": ["raw.npy"], "weight": 1}}
    values = {"kind": "tokens", "root": str(tmp_path), "tokenizer": tokenizer, "sources": sources}
    (tmp_path / "mine.yaml").write_bytes(orjson.dumps(values))
    assert main(["inspect", str(tmp_path / "mine.yaml"), "--rows", "1", "--sequence-length", "16"]) == 2
    assert re.search(f"{problem}.* set token_dtype to uint16", capsys.readouterr().err)


def test_tools_take_folders_of_any_kind(
    in_place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLUMNS")  # as in a pipe: every digit is printed
    tokenizer = ("--tokenizer", str(in_place / "tokenizer.json"))
    target = str(tmp_path / "tokens")
    assert main(["tokenize", str(in_place / "books"), target, "--processes", "1", *tokenizer]) == 2
    assert "its fields are content (text), meta: set --text-key" in capsys.readouterr().err
    keys = ("--text-key", "content")
    assert main(["tokenize", str(in_place / "books"), target, "--processes", "1", *keys, *tokenizer]) == 0
    assert main(["verify", target]) == 0
    capsys.readouterr()
    assert main(["inspect", target, "--rows", "1", "--sequence-length", "32", "--batch-size", "2"]) == 0
    printed = capsys.readouterr().out
    assert "1 files, 0.00B tokens" in printed and "--- published order, row 0\n" in printed
    assert main(["inspect", str(in_place / "notes"), *tokenizer]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"notes +│ +1 │ +[\d,]{5,} │ +40 │ +0 │ +[\d,]{5,} │ +[\d,]{5,} │ 100.00%", printed)


def test_a_config_of_files_on_a_server_is_listed_and_none_is_stored(
    in_place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sources = {"a": {"files": ["books/a.jsonl"], "weight": 1, "text_key": "content"}}
    with serving(in_place) as server:
        cache = tmp_path / "cache"
        values = {"root": server.url, "tokenizer": "tokenizer.json", "cache_dir": str(cache), "sources": sources}
        (tmp_path / "mine.yaml").write_bytes(orjson.dumps(values))
        assert main(["inspect", str(tmp_path / "mine.yaml"), "--rows", "1", "--sequence-length", "16"]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"a +│ +1 │ +[\d,]+ │ 100.00%", printed) and "--- a, row 0\nbook number 0" in printed
    assert not (cache / "books").exists()
