"""`verify` reads every file in the form that it has, of a folder or a data config, and gives advice to follow."""

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from data.__main__ import main

TEXT = "a few words, and then some more of them\n"


def verified(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    """The exit code, and what is printed."""
    code = main(["verify", *map(str, arguments)])
    printed = capsys.readouterr()
    return code, printed.out + printed.err


@pytest.fixture
def configured(sample: Path, tmp_path: Path) -> Any:
    """Writes a data config of one source."""

    def write(kind: str, **source: Any) -> Path:
        values = {"kind": kind, "root": str(tmp_path), "tokenizer": str(sample.absolute() / "tokenizer.json")}
        path = tmp_path / "mine.yaml"
        path.write_bytes(orjson.dumps({**values, "sources": {"a": {"weight": 1, **source}}}))
        return path

    return write


def test_plain_text_is_read_to_its_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "fine.txt").write_text(TEXT)
    (tmp_path / "fine.txt.gz").write_bytes(gzip.compress(TEXT.encode()))
    assert verified(capsys, tmp_path) == (0, f"{tmp_path}: 2 files are in order\n")
    (tmp_path / "cut.txt.gz").write_bytes(gzip.compress(TEXT.encode())[:20])
    (tmp_path / "latin.txt").write_bytes("\u00fc".encode("latin-1"))
    code, printed = verified(capsys, tmp_path)
    assert code == 2 and f"{tmp_path / 'cut.txt.gz'} is truncated" in printed
    assert f"{tmp_path / 'latin.txt'}: 1 of 1 records (1 bad JSON or UTF-8" in printed
    assert "2 of 4 files" in printed


def test_text_in_another_field_is_read_by_an_option_or_a_config(
    tmp_path: Path, configured: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.jsonl").write_bytes(orjson.dumps({"meta": {"body": TEXT}}) + b"\n")
    code, printed = verified(capsys, tmp_path)
    assert code == 2 and "its fields are meta: set --text-key" in printed
    assert verified(capsys, tmp_path, "--text-key", "meta.body")[0] == 0
    code, printed = verified(capsys, configured("text", files=["*.jsonl"]))
    assert code == 2 and "its fields are meta: set data.sources.a.text_key" in printed
    path = configured("text", files=["*.jsonl"], text_key="meta.body")
    assert verified(capsys, path) == (0, f"{path}: 1 files are in order\n")
    code, printed = verified(capsys, path, "--text-key", "meta.body")
    assert code == 2 and "--text-key is for a folder; in a data config, set text_key of the source" in printed


def test_messages_and_tables_of_a_config_are_read(
    tmp_path: Path, configured: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    from datasets import Dataset

    (tmp_path / "chat.jinja").write_text("{% for m in messages %}{{ m.content }}{% endfor %}")
    Dataset.from_dict({"talk": [[{"content": TEXT}]] * 3}).to_parquet(str(tmp_path / "talk.parquet"))
    Dataset.from_dict({"body": [TEXT] * 3}).save_to_disk(str(tmp_path / "saved"))
    talk = {"files": ["talk.parquet"], "messages_key": "talk", "chat_template": "chat.jinja"}
    assert verified(capsys, configured("text", **talk))[0] == 0
    assert verified(capsys, configured("text", files=["saved"], text_key="body"))[0] == 0
    content = (tmp_path / "talk.parquet").read_bytes()
    (tmp_path / "talk.parquet").write_bytes(content[: len(content) // 2])
    code, printed = verified(capsys, configured("text", **talk))
    assert code == 2 and "talk.parquet is damaged" in printed


def test_ids_of_two_bytes_are_read_by_an_option_or_a_config(
    sample: Path, tmp_path: Path, configured: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    np.arange(1, 101, dtype="<u2").tofile(tmp_path / "a.npy")
    (tmp_path / "tokenizer.json").write_bytes((sample / "tokenizer.json").read_bytes())
    code, printed = verified(capsys, tmp_path)
    assert code == 2 and "if its ids have two bytes, add --token-dtype uint16" in printed
    assert verified(capsys, tmp_path, "--token-dtype", "uint16")[0] == 0
    code, printed = verified(capsys, configured("tokens", files=["a.npy"]))
    assert code == 2 and "set token_dtype to uint16" in printed
    assert verified(capsys, configured("tokens", files=["a.npy"], token_dtype="uint16"))[0] == 0
    (tmp_path / "list.txt").write_text("a.npy\n")
    listed = configured("tokens", file_list=str(tmp_path / "list.txt"), token_dtype="uint16")
    assert verified(capsys, listed)[0] == 0
    np.array([1, 60000], "<u2").tofile(tmp_path / "a.npy")
    code, printed = verified(capsys, listed)
    assert code == 2 and "holds token id 60000, and" in printed


def test_inspect_says_how_ids_are_read(sample: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.arange(1, 101, dtype="<u2").tofile(tmp_path / "a.npy")
    (tmp_path / "tokenizer.json").write_bytes((sample / "tokenizer.json").read_bytes())
    arguments = ["inspect", str(tmp_path), "--sequence-length", "10", "--batch-size", "1"]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert "1 files without a header are taken for uint32; --token-dtype" in printed and "5 steps of" in printed
    assert main([*arguments, "--token-dtype", "uint16"]) == 0
    assert "10 steps of" in capsys.readouterr().out
    assert main([*arguments, "--rows", "1"]) == 2
    assert "add --token-dtype uint16" in capsys.readouterr().err
    (tmp_path / "a.npy").write_bytes(bytes(10))
    assert main(arguments) == 2
    assert "or add --token-dtype uint16 if its ids" in capsys.readouterr().err
