"""Validation files of their own: their rows, files that are trained on, and mistakes."""

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from data.config import DataConfig, SourceConfig, ValidationConfig
from data.errors import DataError
from data.fetch import retry
from data.stream import build_stream
from tests.data.fetch.server import reset_after, serving
from tests.data.reading import assert_same, read_global
from tests.data.validating import (
    LENGTH,
    TEXTS,
    assert_equal_rows,
    built,
    decoder,
    numbers_in,
    token_config,
    write_texts,
)


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


def text_config(folder: Path, mix: DataConfig, **sources: SourceConfig) -> DataConfig:
    """Trains on train/a.jsonl below `folder` and validates on these sources."""
    write_texts(folder / "train/a.jsonl", range(10_000, 10_050))
    write_texts(folder / "own/b.jsonl", range(10_100, 10_150))
    return dataclasses.replace(
        mix,
        root=str(folder),
        tokenizer=str(Path(mix.root) / "tokenizer.json"),
        sources={"train": SourceConfig(["train/*"], 1.0)},
        validation=ValidationConfig(sources=sources, rows=2),
    )


Link = Callable[[Path, Path], None]
LINKS = pytest.mark.parametrize("link", [Path.symlink_to, Path.hardlink_to], ids=["symbolic", "hard"])


@LINKS
def test_a_link_to_a_training_file_is_refused(
    mix: DataConfig, tmp_path: Path, link: Callable[[Path, Path], None]
) -> None:
    config = text_config(tmp_path, mix, own=SourceConfig(["own/*"]))
    assert len(built(config).tokens) == 2
    link(tmp_path / "own/c.jsonl", tmp_path / "train/a.jsonl")
    message = (
        r"sources\.own\.files: own/c\.jsonl is in data\.sources\.train too \(as train/a\.jsonl\), and is trained on"
    )
    with pytest.raises(DataError, match=message):
        built(config)


@LINKS
def test_a_link_to_a_training_token_file_is_refused(tmp_path: Path, link: Link) -> None:
    config = token_config(tmp_path)
    link(tmp_path / "mix/valid/y/link.npy", tmp_path / "mix/train/b/part-1.npy")
    with (tmp_path / "validation.txt").open("a") as names:
        names.write("\nmix/valid/y/link.npy\n")
    with pytest.raises(DataError, match=r"link\.npy is in data\.file_list too \(as mix/train/b/part-1\.npy\)"):
        built(config)


def test_a_copy_of_a_training_token_file_is_refused_where_hashes_are_listed(tmp_path: Path) -> None:
    config = token_config(tmp_path)
    names = ["mix/train/b/part-1.npy", "mix/valid/x/part-2.npy"]
    (tmp_path / names[1]).write_bytes((tmp_path / names[0]).read_bytes())
    size = (tmp_path / names[0]).stat().st_size
    entries = {
        name: {"bytes": size, "sha256": digest} for name, digest in zip(names, ["a" * 64, "A" * 64], strict=True)
    }
    (tmp_path / "manifest.json").write_bytes(orjson.dumps({"files": entries}))
    with pytest.raises(DataError, match=r"part-2\.npy is in data\.file_list too \(as mix/train/b/part-1\.npy\)"):
        built(config)


@pytest.mark.parametrize("spelling", ["./mix/train/b/part-1.npy", "mix//train/./b/part-1.npy"])
@pytest.mark.parametrize("changed", ["files.txt", "validation.txt"])
def test_another_spelling_of_a_name_is_the_same_file(tmp_path: Path, spelling: str, changed: str) -> None:
    config = token_config(tmp_path)
    other = {"files.txt": "validation.txt", "validation.txt": "files.txt"}[changed]
    for name, line in ((changed, spelling), (other, "mix/train/b/part-1.npy")):
        with (tmp_path / name).open("a") as names:
            names.write(f"\n{line}\n")
    with serving(tmp_path) as server:
        remote = dataclasses.replace(config, root=server.url, cache_dir=str(tmp_path / "cache"))
        for each in (config, remote):
            with pytest.raises(
                DataError, match=r"mix/train/b/part-1\.npy is in data\.file_list too, and is trained on"
            ):
                built(each)


def test_a_listed_path_that_leads_upwards_is_refused(tmp_path: Path) -> None:
    config = token_config(tmp_path)
    (tmp_path / "validation.txt").write_text("mix/valid/../train/a/part-0.npy\n")
    with pytest.raises(DataError, match=r"data\.validation\.file_list: .* lists mix/valid/\.\./train/a/part-0\.npy"):
        built(config)


def test_a_file_in_two_validation_sources_is_refused(mix: DataConfig, tmp_path: Path) -> None:
    twice = text_config(tmp_path, mix, first=SourceConfig(["own/b*"]), second=SourceConfig(["own/*"]))
    with pytest.raises(DataError, match=r"files: own/b\.jsonl is in data\.validation\.sources\.first too; take"):
        built(twice)
    linked = text_config(tmp_path, mix, first=SourceConfig(["own/*"]), second=SourceConfig(["link/*"]))
    (tmp_path / "link").mkdir()
    (tmp_path / "link/c.jsonl").hardlink_to(tmp_path / "own/b.jsonl")
    with pytest.raises(DataError, match=r"c\.jsonl is in data\.validation\.sources\.first too \(as own/b\.jsonl\)"):
        built(linked)


def test_a_token_file_in_two_validation_sources_is_refused(tmp_path: Path) -> None:
    config = token_config(tmp_path)
    (tmp_path / "mix/valid/y/link.npy").symlink_to(tmp_path / "mix/valid/x/part-2.npy")
    with (tmp_path / "validation.txt").open("a") as names:
        names.write("\nmix/valid/y/link.npy\n")
    with pytest.raises(DataError, match=r"source y: .*/link\.npy is in source x too \(as mix/valid/x/part-2\.npy\)"):
        built(config)
