"""`python -m model export`: a checkpoint of any ZeRO stage and world size becomes a folder for others."""

import json
import os
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

from model.__main__ import main
from model.weights import hf_weights, parameter_shapes, random_weights
from report.run_folder import RunFiles
from tests.train.conftest import ONE_RANK, RESUMED, ROUTES, Runs
from tests.train.tiny import VOCAB_SIZE, tiny, write_tokenizer
from train.checkpoint.masters import read_masters
from train.checkpoint.store import Layout, checkpoint_folders
from train.huggingface import export as export_module
from train.huggingface.export import export, export_parameters
from train.huggingface.source import open_saved


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["zero0", *RESUMED])
def test_weights_of_two_ranks_come_back_bit_for_bit(
    stages: Runs, tmp_path: Path, name: str, dtype: torch.dtype
) -> None:
    check_round_trip(stages.folder(name).path, tmp_path / "out", dtype)


@pytest.mark.parametrize("name", ["one-rank", *ONE_RANK])
def test_weights_of_one_rank_come_back_bit_for_bit(splits: Runs, tmp_path: Path, name: str) -> None:
    assert check_round_trip(splits.folder(name).path, tmp_path / "out", torch.float32).world_size == 1


@pytest.mark.parametrize("route", ROUTES)
def test_weights_that_went_from_layout_to_layout_come_back_bit_for_bit(
    routes: Runs, tmp_path: Path, route: str
) -> None:
    for folder in checkpoint_folders(routes.folder(route).checkpoints):
        check_round_trip(folder, tmp_path / folder.name, torch.float32)


def check_round_trip(source: Path, folder: Path, dtype: torch.dtype) -> Layout:
    saved = open_saved(source)
    export(saved, folder, dtype=dtype)
    masters, run = read_masters(saved.checkpoint), saved.config
    weights = hf_weights(folder, run.model, run.positions, seed=9)
    for name in parameter_shapes(run.model, run.positions):
        assert torch.equal(weights(name), masters[name]().to(dtype).float()), name
    return saved.checkpoint.layout


def test_a_run_exports_its_last_step_and_earlier_ones_with_a_tokenizer(exports: Runs, runs_root: Path) -> None:
    run = exports.folder("exported")
    for folder, step in ((run.hf, 2), (run.exports / "step-0000001", 1)):
        weights = hf_weights(folder, tiny(runs_root).model, open_saved(run.path).config.positions, seed=9)
        masters = read_masters(open_saved(run.path, step).checkpoint)
        assert all(torch.equal(weights(name), read()) for name, read in masters.items())
        assert f"# exported, step {step}" in (folder / "README.md").read_text()
        tokenizer = AutoTokenizer.from_pretrained(folder)
        assert tokenizer.eos_token_id == 0 and tokenizer.model_max_length == 48
    assert len((run.exports / "step-0000001" / "README.md").read_text()) < len((run.hf / "README.md").read_text())


def test_the_command_writes_an_earlier_checkpoint(
    exports: Runs, runs_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = exports.folder("exported").path
    tokenizer = write_tokenizer(tmp_path / "tokenizer.json")
    arguments = ["--step", "1", "--dtype", "bf16", "--flavour", "published", "--tokenizer", str(tokenizer)]
    assert main(["export", str(run), str(tmp_path / "out"), *arguments]) == 0
    said = capsys.readouterr()
    assert f"{run}/checkpoints/step-0000001 is exported to {tmp_path / 'out'}\n" in said.out
    assert "plain transformers takes it for RoPE" not in said.out and "/25 parameters\n" in said.err  # it is RoPE
    assert json.loads((tmp_path / "out" / "config.json").read_text())["torch_dtype"] == "bfloat16"
    assert (tmp_path / "out" / "tokenizer.json").read_bytes() == tokenizer.read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {"out", "tokenizer.json"}
    learned = str(exports.folder("imported").path)
    assert main(["export", learned, str(tmp_path / "learned"), "--flavour", "published"]) == 0
    assert "plain transformers takes it for RoPE" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["{run}", "{out}", "--step", "7"], "has no checkpoint of step 7; there are: step-0000002, step-0000001"),
        (["{root}", "{out}"], "is no run with a whole checkpoint, and no checkpoint: give runs/NAME or one of its"),
        (["{run}/hf", "{out}"], "one of its checkpoints; Hugging Face folders are for `python -m model import`"),
        (["{imported}", "{out}", "--flavour", "olmo2"], "flavour olmo2 is RoPE in every layer, but this model has"),
        (["{run}", "{root}"], "exists; remove it or choose another folder"),
        (["{run}", "{out}", "--tokenizer", "{run}/config.yaml"], "config.yaml is not a tokenizer.json"),
        (["{run}", "{run}/checkpoints/out"], "is among the checkpoints of a run: choose another folder"),
        (["{run}", "{imported}/checkpoints/step-0000002/out"], "is among the checkpoints of a run"),
        (["{run}", "{out}", "--push", ""], "--push '' cannot be the name of a repository: give OWNER/NAME ("),
        (["{run}", "{out}", "--push", "a b/c"], "--push 'a b/c' cannot be the name of a repository"),
        (["{run}", "{out}", "--push", "a/b/c/d"], "--push 'a/b/c/d' cannot be the name of a repository"),
        (["{run}", "{out}", "--push", "alone"], "--push 'alone' names no owner: give OWNER/NAME"),
    ],
)
def test_a_mistake_is_one_line(
    exports: Runs, runs_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    places = {"run": exports.folder("exported").path, "imported": exports.folder("imported").path, "root": runs_root}
    assert main(["export", *(argument.format(out=tmp_path / "out", **places) for argument in arguments)]) == 2
    error = capsys.readouterr().err
    assert said in error and error.startswith("error: ") and error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_the_card_shows_the_run(exports: Runs) -> None:
    card = (exports.folder("imported").hf / "README.md").read_text()
    assert card.startswith("---\nlicense: apache-2.0\n") and "rope in layer 0, repo in layer 1" in card
    assert "| began from | `exported` |" in card and str(exports.root) not in card
    rows = RunFiles(exports.folder("imported").path).read_metrics()
    assert f"| 1 | {rows[0]['tokens']:,} | {rows[0]['train/ce_loss']:.4f} |  |" in card
    assert f"| range | {rows[-1]['positions/range']:.4g} |" in card
    assert VOCAB_SIZE == 128


def test_the_export_is_on_the_disk_before_it_counts_as_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed: list[str] = []
    flush, rename = os.fsync, Path.rename

    def record(descriptor: int) -> None:
        flush(descriptor)
        flushed.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)

    def publish(source: Path, target: Path) -> Path:
        if Path(target).name == "hf":
            assert {path.name for path in source.iterdir()} | {source.name} <= set(flushed)
        return rename(source, target)

    monkeypatch.setattr(os, "fsync", record)
    monkeypatch.setattr(Path, "rename", publish)
    config = tiny(tmp_path)
    weights = random_weights(config.model, config.positions, config.seed)
    names = parameter_shapes(config.model, config.positions)
    export_parameters(config, tmp_path / "hf", ((name, weights(name)) for name in names), 8)
    assert flushed[-3] == tmp_path.name and flushed[-2].startswith(".step.") and flushed[-1] == "hf"
    assert {"model.safetensors", "config.json"} < set(flushed)


def test_the_export_of_a_large_model_says_how_far_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config, folder = tiny(tmp_path), tmp_path / "hf"
    weights = random_weights(config.model, config.positions, config.seed)
    names = list(parameter_shapes(config.model, config.positions))
    for large in (export_module.LARGE, 1000):
        monkeypatch.setattr(export_module, "LARGE", large)
        export_parameters(config, folder, ((name, weights(name)) for name in names), 8)
    said = [line for line in capsys.readouterr().out.splitlines() if "tokenizer" not in line]
    assert said == [f"{folder}: {-(-len(names) * part // 4)}/{len(names)} parameters written" for part in (1, 2, 3)]
