"""The tools fetch, convert, verify and count real files, go on where they were stopped, and say what is wrong."""

import csv
import gzip
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
import tokenizers
from tokenizers import Tokenizer

from data.__main__ import main
from data.config import DataConfig, DataKind, EncoderKind
from data.errors import DataError
from data.fast_encoder import fast_name
from data.fetch import retry
from data.fetch.files import read_manifest
from data.fetch.locks import file_lock
from data.fetch.web import WebFolder
from data.stream import build_stream
from data.text.records import Record
from data.tokenizer import DocumentEncoder
from data.tokens.files import TOKEN_DTYPE
from data.tools.convert import plan
from tests.data.fetch.server import FileServer, Handler, held_after, serving

FILE_LIST = Path(__file__).parents[3] / "configs/data/olmo2-stage2-files.txt"


@pytest.fixture(autouse=True)
def wide_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")


@pytest.fixture
def server(sample: Path) -> Iterator[FileServer]:
    with serving(sample) as server:
        yield server


@pytest.fixture(scope="session")
def converted(sample: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("converted")
    assert main(["tokenize", str(sample), str(folder), "--processes", "2"]) == 0
    return folder


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def test_fetch_makes_a_folder_that_is_a_root_itself(sample: Path, server: FileServer, tmp_path: Path) -> None:
    patterns = ("web/*", "code/*", "tokenizer.json")
    assert run("fetch", server.url, "--to", tmp_path / "to", "--files", *patterns) == 0
    (tmp_path / "to/web/shard-00.jsonl.zst").unlink()
    num_seen = len(server.seen)
    assert run("fetch", server.url, "--to", tmp_path / "to", "--files", *patterns) == 0
    gets = [name for method, name, extent in server.seen[num_seen:] if method == "GET" and extent]
    assert gets == ["web/shard-00.jsonl.zst"]
    manifest = read_manifest(tmp_path / "to")
    assert len(manifest) == 8
    for name, entry in manifest.items():
        assert (tmp_path / "to" / name).read_bytes() == (sample / name).read_bytes()
        assert read_manifest(sample)[name]["sha256"] == entry["sha256"]
    assert run("verify", tmp_path / "to") == 0


@pytest.mark.parametrize("scheme", ["http://127.0.0.1:{port}", "hf://datasets/a/b"])
def test_fetch_from_a_host_that_cannot_be_reached_is_one_line_at_once_and_leaves_nothing(
    scheme: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(retry, "FIRST_PAUSE", 0.001)
    monkeypatch.delenv("RANK", raising=False)
    names = [f"part-{number}.npy" for number in range(100)]
    with socket.socket() as bound:  # does not listen: connections are refused
        bound.bind(("127.0.0.1", 0))
        port = bound.getsockname()[1]
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{port}")
        assert run("fetch", scheme.format(port=port), "--to", tmp_path / "new/to", "--files", *names) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "Connection refused" in error and "type the same again" in error
    assert list(tmp_path.iterdir()) == [] and "trying again" not in caplog.text


def test_a_host_that_was_reached_before_is_tried_again(
    sample: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(retry, "FIRST_PAUSE", 0.001)

    def answer_and_close(handler: Handler, content: bytes, start: int) -> None:
        handler.send_range(content, start)
        handler.close_connection = True

    with serving(sample) as server:
        remote = WebFolder(server.url)
        server.heads["tokenizer.json"] = [answer_and_close]
        remote.listing(["tokenizer.json"])
    with pytest.raises(DataError, match=r"Connection refused.*7 times in a row"):
        remote.listing(["tokenizer.json", "manifest.json"])
    assert caplog.text.count("trying again") == 6


def test_fetch_goes_on_after_a_kill(sample: Path, server: FileServer, tmp_path: Path) -> None:
    name = "web/shard-03.jsonl.zst"
    is_killed = threading.Event()
    server.faults[name] = [held_after(20_000, is_killed)]
    arguments = [sys.executable, "-m", "data", "fetch", server.url, "--to", str(tmp_path), "--files", "web/*"]
    process = subprocess.Popen(arguments)
    part = tmp_path / "web/.shard-03.jsonl.zst.part"
    while not part.exists() or part.stat().st_size < 4000:
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.wait()
    is_killed.set()
    assert not (tmp_path / name).exists()
    assert run(*arguments[3:]) == 0
    assert server.starts(name)[-1] > 0
    assert (tmp_path / name).read_bytes() == (sample / name).read_bytes()


def test_tokens_of_a_conversion_are_the_documents_each_ended_by_eos(sample: Path, converted: Path) -> None:
    tokenizer = Tokenizer.from_file(str(sample / "tokenizer.json"))
    tokenizer.encode_special_tokens = True
    records = [orjson.loads(line) for line in (sample / "math/shard-00.jsonl").read_bytes().splitlines()]
    tokens = np.fromfile(converted / "math/shard-00.npy", TOKEN_DTYPE)
    with gzip.open(converted / "math/shard-00.csv.gz", "rt", newline="") as file:
        rows = list(csv.reader(file))
    assert len(rows) == len(records)
    at = 0
    for number, (record, (start, end, identity, source, line)) in enumerate(zip(records, rows, strict=True), 1):
        assert (int(start), identity, source, int(line)) == (at, record["id"], "math/shard-00.jsonl", number)
        expected = [*tokenizer.encode(record["text"]).ids, tokenizer.token_to_id("<|endoftext|>")]
        assert tokens[int(start) : int(end)].tolist() == expected
        at = int(end)
    assert at == len(tokens)


def test_a_conversion_feeds_a_stream_and_is_sound(converted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = DataConfig(
        DataKind.tokens, root=str(converted), file_list=str(converted / "files.txt"), tokenizer="tokenizer.json"
    )
    stream = build_stream(config, sequence_length=64, global_batch_size=16)
    batch = stream.next_batch()
    assert batch.tokens.shape == (16, 64) and set(stream.source_names) == {
        path.name for path in converted.iterdir() if path.is_dir()
    }
    assert run("verify", converted) == 0
    assert (
        run("inspect", converted, "--file-list", converted / "files.txt", "--sequence-length", 64, "--batch-size", 16)
        == 0
    )
    printed = capsys.readouterr().out
    num_tokens = sum(entry["tokens"] for entry in read_manifest(converted).values())
    assert re.search(r"web +│ +6 ", printed) and f"{num_tokens / 1e9:.2f}B tokens" in printed


def test_an_interrupted_conversion_goes_on_and_ends_the_same(sample: Path, converted: Path, tmp_path: Path) -> None:
    arguments = [sys.executable, "-m", "data", "tokenize", str(sample), str(tmp_path), "--processes", "1"]
    fourth = tmp_path / list(read_manifest(converted))[3]
    fourth.parent.mkdir(exist_ok=True)
    with file_lock(fourth.with_name(f".{fourth.name}.lock")):  # the conversion waits for it until it is killed
        process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, start_new_session=True)
        while len(list(tmp_path.rglob("*.npy"))) < 3:
            assert process.poll() is None
            time.sleep(0.005)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert not (tmp_path / "manifest.json").exists()
    done = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.npy")}
    assert run(*arguments[3:]) == 0
    assert all(path.stat().st_mtime_ns == written for path, written in done.items())
    assert read_manifest(tmp_path) == read_manifest(converted)


def test_a_conversion_goes_on_only_with_what_was_made_of_the_same(sample: Path, tmp_path: Path) -> None:
    source, target = tmp_path / "text", tmp_path / "tokens"
    (source / "a").mkdir(parents=True)
    tokenizer = Tokenizer.from_file(str(sample / "tokenizer.json"))
    tokenizer.add_special_tokens(["<|pad|>"])
    tokenizer.save(str(source / "tokenizer.json"))
    for name in ("one", "two"):
        (source / f"a/{name}.jsonl").write_bytes(orjson.dumps({"text": name * 3}) + b"\n")
    arguments = ["tokenize", str(source), str(target), "--processes", "1"]
    assert main(arguments) == 0
    before = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in target.glob("a/*.npy")}
    (source / "a/two.jsonl").write_bytes(orjson.dumps({"text": "other text"}) + b"\n")
    assert main(arguments) == 0
    after = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in target.glob("a/*.npy")}
    assert after["one.npy"] == before["one.npy"] and after["two.npy"][0] != before["two.npy"][0]
    assert main([*arguments, "--eos-token", "<|pad|>"]) == 0
    for path in target.glob("a/*.npy"):
        assert path.read_bytes()[-4:] != after[path.name][0][-4:]


def test_a_conversion_records_what_encoded_each_file_and_no_encoder_changes_any(sample: Path, tmp_path: Path) -> None:
    source, target = tmp_path / "text", tmp_path / "tokens"
    source.mkdir()
    target.mkdir()
    (source / "a.jsonl").write_bytes((sample / "math/shard-00.jsonl").read_bytes())

    def convert_with(kind: EncoderKind) -> dict[str, Any]:
        encoder = DocumentEncoder(sample / "tokenizer.json", "<|endoftext|>", kind)
        (conversion,) = plan(source, target, encoder, 0.0)
        return conversion.run()

    first = convert_with(EncoderKind.tokenizers)
    assert first["encoder"] == f"tokenizers {tokenizers.__version__}"
    assert convert_with(EncoderKind.auto) == first  # it was there already
    made_of = target / ".a.source"
    made_of.write_text(made_of.read_text().split("\n")[0])  # as before there was a choice
    assert convert_with(EncoderKind.auto) == {**first, "encoder": "tokenizers"}
    made_of.unlink()
    assert convert_with(EncoderKind.auto) == {**first, "encoder": fast_name()}


def test_the_command_that_a_conversion_prints_trains_on_it(
    converted: Path, sample: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["tokenize", str(sample), str(converted)]) == 0
    *_, line = capsys.readouterr().out.splitlines()
    keys: dict[str, Any] = dict(pair.removeprefix("data.").split("=", 1) for pair in shlex.split(line))
    keys["kind"], keys["eos_token_id"] = DataKind[keys["kind"]], None
    assert keys["eos_token"] == '"<|endoftext|>"'  # Hydra wants the quotes
    keys["eos_token"] = keys["eos_token"].strip('"')
    config = DataConfig(**keys)
    with closing(build_stream(config, sequence_length=64, global_batch_size=8)) as stream:
        stream.next_batch()
        assert stream.eos_token_id == DocumentEncoder(sample / "tokenizer.json", "<|endoftext|>").eos_token_id


def test_verify_names_each_faulty_file(
    sample: Path, converted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def damage(name: str, change: int) -> None:
        content = bytearray((sample / name).read_bytes())
        content[len(content) // 2] ^= change
        (tmp_path / Path(name).name).write_bytes(content)

    assert run("verify", sample) == 0
    damage("web/shard-00.jsonl.zst", 1)
    damage("qa/shard-00.jsonl.gz", 1)
    damage("papers/shard-01.jsonl.zst", 0)
    np.array([1, 1 << 25], "<u4").tofile(tmp_path / "page.npy")
    (tmp_path / "cut.npy").write_bytes(bytes(7))
    (tmp_path / ".late.npy.part").write_bytes(bytes(8))
    (tmp_path / "list.jsonl").write_bytes(b'{"text": "fine"}\n{"text": 3}\n')
    (tmp_path / "manifest.json").write_bytes(orjson.dumps({"files": {"gone.npy": {"bytes": 4}}}))
    assert run("verify", tmp_path) == 2
    out, error = capsys.readouterr()
    assert error == f"error: 7 of 8 files below {tmp_path} are faulty; put right what is listed above\n"
    for fault in (
        r"page\.npy holds token id 33554432",
        r"cut\.npy is truncated",
        r"late\.npy\.part is the beginning of a file",
        r"gone\.npy is missing",
        "1 of 2 records",
    ):
        assert re.search(fault, out), fault


def test_the_published_mix_can_be_listed_before_anything_is_here(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("inspect", "--file-list", FILE_LIST) == 0
    printed = capsys.readouterr().out
    assert "576 files, 51.47B tokens, 205.9 GB on disk, as published" in printed
    assert "24,543 steps of 512 rows of 4,096 tokens in an epoch" in printed
    assert re.search(r"dclm +│ +65 │ +24,310,000,000 │ +97,240,000,000 │ 47.23%", printed)


def test_rows_are_shown_as_text_with_their_ends(
    sample: Path, converted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("inspect", sample, "--rows", 2, "--sequence-length", 2048) == 0
    printed = capsys.readouterr().out
    assert printed.count("--- math, row") == 2 and "<|endoftext|>" in printed
    first = orjson.loads((sample / "math/shard-00.jsonl").read_bytes().splitlines()[0])["text"]
    assert f"--- math, row 0\n{first[:200]}" in printed
    arguments = ("--file-list", converted / "files.txt", "--rows", 1, "--tokenizer", sample / "tokenizer.json")
    assert run("inspect", converted, *arguments) == 0
    assert "--- published order, row 0\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("fetch", "{sample}", "--to", "{tmp}", "--files", "*"), "is on this machine already"),
        (("fetch", "{url}", "--to", "{tmp}", "--files", "none/*"), "--files: 'none/*' matches no file below"),
        (("fetch", "{url}", "--to", "{tmp}", "--files", "none"), "answered 404"),
        (("fetch", "{url}", "--to", "{sample}/manifest.json", "--files", "*"), "cannot write in"),
        (("inspect",), "inspect needs a folder, a data config (.yaml), or --file-list"),
        (("inspect", "--file-list", "{tmp}/none"), "there is no file"),
        (("inspect", "{tmp}/none.yaml"), "none.yaml: No such file or directory; give the folder or the YAML of"),
        (("inspect", "--file-list", "{sample}/web/shard-00.jsonl.zst"), "is no text"),
        (("sample", "{tmp}/mix", "--megabytes", "nan"), "megabytes above 0"),
        (("verify", "{tmp}"), "holds no data files"),
        (("tokenize", "{tmp}", "{tmp}/to", "--tokenizer", "{sample}/tokenizer.json"), "holds no .json, .jsonl"),
    ],
)
def test_mistakes_get_one_line(
    arguments: tuple[str, ...],
    message: str,
    sample: Path,
    server: FileServer,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    filled = [argument.format(sample=sample, url=server.url, tmp=tmp_path) for argument in arguments]
    assert main(filled) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    assert message in error


def test_a_folder_begun_with_another_tokenizer_is_refused(
    sample: Path, converted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "tokenizer.json"
    other.write_bytes((sample / "tokenizer.json").read_bytes() + b"\n")
    assert run("tokenize", sample, converted, "--tokenizer", other) == 2
    assert "was begun with another tokenizer" in capsys.readouterr().err


def test_names_and_sizes_of_tables_mean_nothing_special(tmp_path: Path) -> None:
    from datasets import Dataset, Features, Value

    from data.fetch.files import find_files
    from data.text.frames import RecordCounts
    from data.text.records import read_records

    for name in ("a1", "a[1]", "a?"):
        Dataset.from_dict({"text": [name]}).to_parquet(str(tmp_path / f"{name}.parquet"))
    Dataset.from_dict({"text": []}, features=Features({"text": Value("string")})).to_parquet(
        str(tmp_path / "z.parquet")
    )
    files = find_files(tmp_path, ["*.parquet"], "key", {})
    found = {file.name: [record.text for record in read_records(file, RecordCounts())] for file in files}
    assert found == {"a1.parquet": ["a1"], "a[1].parquet": ["a[1]"], "a?.parquet": ["a?"], "z.parquet": []}


@pytest.mark.parametrize("suffix", [".parquet", ".arrow"])
def test_tables_are_read_like_json_lines(tmp_path: Path, suffix: str) -> None:
    from datasets import Dataset

    from data.fetch.files import find_files
    from data.text.frames import RecordCounts
    from data.text.records import read_records

    texts = [f"text {number}" for number in range(2500)]
    texts[7:9] = [None, "  "]  # type: ignore[list-item]
    table = Dataset.from_dict(
        {"id": [f"id {number}" for number in range(2500)], "text": texts, "metadata": [[1]] * 2500}
    )
    if suffix == ".parquet":
        table.to_parquet(str(tmp_path / "a.parquet"))
    else:
        table.save_to_disk(str(tmp_path / "saved"))
        next((tmp_path / "saved").glob("*.arrow")).rename(tmp_path / "a.arrow")
    (file,) = find_files(tmp_path, [f"*{suffix}"], "key", {})
    counts = RecordCounts()
    records = list(read_records(file, counts))
    assert records[0] == Record("text 0", "id 0", 1) and records[-1] == Record("text 2499", "id 2499", 2500)
    assert (len(records), counts.bad_text, counts.empty) == (2498, 1, 1)
    whole = file.path.read_bytes()
    file.path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=rf"a\{suffix} is damaged"):
        list(read_records(file, counts))
