"""The sample mix: complete, in the real mix's schema and encodings, reproducible, and rebuilt after an interruption."""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import orjson
import pytest
from omegaconf import OmegaConf
from tokenizers import Tokenizer

from data.config import DataConfig
from data.errors import DataError
from data.stream import build_stream
from data.text.decode import read_lines
from data.tools.sample import SAMPLE_SOURCES, build_sample
from data.tools.sample_texts import reversed_lists


def quiet(message: str) -> None:
    """No report."""


def test_records_have_the_dolma_schema_and_the_manifest_describes_every_file(sample: Path) -> None:
    manifest = orjson.loads((sample / "manifest.json").read_bytes())["files"]
    shards = {path.relative_to(sample).as_posix() for path in sample.glob("[a-z]*/shard-*")}
    assert shards | {"tokenizer.json"} == set(manifest)
    assert {"".join(Path(name).suffixes) for name in shards} == {".jsonl", ".jsonl.gz", ".jsonl.zst"}
    assert sorted(item.num_shards for item in SAMPLE_SOURCES.values())[:2] == [1, 2]
    for name, entry in manifest.items():
        content = (sample / name).read_bytes()
        assert (len(content), hashlib.sha256(content).hexdigest()) == (entry["bytes"], entry["sha256"])
    for name in shards:
        records = [orjson.loads(line) for line in read_lines(sample / name)]
        assert len(records) == manifest[name]["documents"] > 0
        for record in records:
            assert set(record) == {"id", "text", "source", "added", "created", "metadata"}
            assert record["text"].strip() and record["source"] == name.split("/")[0]


def test_the_tokenizer_has_exactly_the_vocabulary_asked_for_and_loses_nothing(sample: Path) -> None:
    tokenizer = Tokenizer.from_file(str(sample / "tokenizer.json"))
    assert tokenizer.get_vocab_size() == 512
    eos_token_id = tokenizer.token_to_id("<|endoftext|>")
    assert eos_token_id is not None and eos_token_id < 512
    text = "Any text: é 漢字 \U0001f600\r\n\t x=1234567 don't"
    assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_a_second_call_does_nothing(sample: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in sample.rglob("*") if path.is_file()}
    assert not build_sample(sample, vocab_size=512, megabytes=1.0, report=pytest.fail)
    assert before == {path: path.stat().st_mtime_ns for path in before}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sample that is as small as can be."""
    folder = tmp_path_factory.mktemp("built")
    assert build_sample(folder, vocab_size=300, megabytes=0.05, report=quiet)
    return folder


@pytest.mark.parametrize("damage", ["manifest.json", "web/shard-00.jsonl.zst", "tokenizer.json"])
def test_an_interrupted_build_is_built_again_with_the_same_content(built: Path, tmp_path: Path, damage: str) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(built, copy)
    (copy / damage).unlink()
    assert build_sample(copy, vocab_size=300, megabytes=0.05, report=quiet)
    assert (copy / "manifest.json").read_bytes() == (built / "manifest.json").read_bytes()


def test_another_seed_gives_another_sample(built: Path, tmp_path: Path) -> None:
    build_sample(tmp_path, seed=7, vocab_size=300, megabytes=0.05, report=quiet)
    assert (tmp_path / "web/shard-00.jsonl.zst").read_bytes() != (built / "web/shard-00.jsonl.zst").read_bytes()


def test_a_sample_of_other_sources_is_built_again(built: Path, tmp_path: Path) -> None:
    shutil.copytree(built, tmp_path, dirs_exist_ok=True)
    manifest = orjson.loads((tmp_path / "manifest.json").read_bytes())
    manifest["files"] = {name: entry for name, entry in manifest["files"].items() if not name.startswith("lists/")}
    del manifest["shares"]["lists"]
    (tmp_path / "manifest.json").write_bytes(orjson.dumps(manifest))
    assert build_sample(tmp_path, vocab_size=300, megabytes=0.05, report=quiet)


def test_a_list_is_followed_by_its_reverse() -> None:
    first, second = (next(reversed_lists(seed)).text for seed in (1, 2))
    assert first != second and first == next(reversed_lists(1)).text
    for line in first.splitlines()[1:]:
        question, answer = line.split(" > ")
        assert question.split() == answer.split()[::-1]


def test_arguments_that_no_sample_can_be_made_with_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="vocab_size above 256"):
        build_sample(tmp_path, vocab_size=100, report=quiet)
    with pytest.raises(DataError, match="raise --megabytes or lower --vocab-size"):
        build_sample(tmp_path, vocab_size=60_000, megabytes=0.05, report=quiet)
    assert not (tmp_path / "manifest.json").exists()


def test_the_shipped_config_reads_the_sample(sample: Path) -> None:
    shipped = OmegaConf.load(Path(__file__).parents[3] / "configs/data/sample.yaml")
    config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(DataConfig), shipped, {"root": str(sample)}))
    assert isinstance(config, DataConfig)
    assert set(config.sources) == set(SAMPLE_SOURCES)
    stream = build_stream(config, sequence_length=64, global_batch_size=24)
    assert stream.next_batch().tokens.shape == (24, 64)


def run_data(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "COLUMNS": "120"}
    return subprocess.run(
        [sys.executable, "-m", "data", *arguments], capture_output=True, text=True, env=environment, check=False
    )


def test_the_command_line_builds_inspects_and_explains(sample: Path, tmp_path: Path) -> None:
    assert "examples:" in run_data("--help").stdout
    built = run_data("sample", str(sample), "--vocab-size", "512", "--megabytes", "1.0")
    assert (built.returncode, built.stdout) == (0, f"{sample}: complete already\n")
    table = run_data("inspect", str(sample)).stdout
    assert all(source in table for source in SAMPLE_SOURCES)
    for arguments in (("inspect", str(tmp_path / "none")), ("inspect", str(tmp_path)), ("sample", "/proc/none")):
        failed = run_data(*arguments)
        assert failed.returncode == 2
        assert failed.stderr.startswith("error: ") and failed.stderr.count("\n") == 1
