"""What a finished run leaves for others: its fp32 weights in Hugging Face's layout."""

import os
from pathlib import Path

import pytest
import torch
from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint
from transformers import Olmo2ForCausalLM

from model.weights import hf_weights, is_position_parameter, parameter_shapes, random_weights
from tests.train.conftest import Runs
from tests.train.tiny import tiny
from train.callbacks import checkpointer as checkpointer_module
from train.callbacks.checkpointer import Checkpointer
from train.compose.app import load_run_config


def test_the_export_holds_the_masters_of_the_last_checkpoint(exports: Runs) -> None:
    folder = exports.folder("exported")
    config = load_run_config(folder.config)
    weights = hf_weights(folder.hf, config.model, config.positions, seed=0)
    masters = get_fp32_state_dict_from_zero_checkpoint(str(folder.checkpoints), tag="step-0000002")
    shapes = parameter_shapes(config.model, config.positions)
    assert masters.keys() == shapes.keys()
    assert all(torch.equal(weights(name), masters[name]) for name in shapes)
    assert any(not torch.equal(value, value.bfloat16().float()) for value in masters.values())
    assert Olmo2ForCausalLM.from_pretrained(folder.hf).config.max_position_embeddings == config.sequence_length


def test_a_run_starts_from_the_weights_of_a_finished_one_and_fresh_positions(exports: Runs) -> None:
    folder = exports.folder("imported")
    config = load_run_config(folder.config)  # its rate is zero: what it exports is what it started from
    backbone = exports.folder("exported").hf
    source = hf_weights(backbone, config.model, config.positions, config.seed, is_conversion=True)
    weights = hf_weights(folder.hf, config.model, config.positions, seed=0)
    fresh = random_weights(config.model, config.positions, config.seed)
    for name in parameter_shapes(config.model, config.positions):
        assert torch.equal(weights(name), source(name)), name
        if is_position_parameter(name):
            assert torch.equal(weights(name), fresh(name)), name


def test_an_unfinished_run_exports_nothing(stages: Runs) -> None:
    assert not stages.folder("other-launch").hf.exists()


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
    checkpointer = Checkpointer(config)
    checkpointer._export(tmp_path / "hf", ((name, weights(name)) for name in names), 8)
    assert flushed[-3] == tmp_path.name and flushed[-2].startswith(".step.") and flushed[-1] == "hf"
    assert {"model.safetensors", "config.json"} < set(flushed)


def test_the_export_of_a_large_model_says_how_far_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config, folder = tiny(tmp_path), tmp_path / "hf"
    weights = random_weights(config.model, config.positions, config.seed)
    names = list(parameter_shapes(config.model, config.positions))
    for large in (checkpointer_module.LARGE, 1000):
        monkeypatch.setattr(checkpointer_module, "LARGE", large)
        Checkpointer(config)._export(folder, ((name, weights(name)) for name in names), 8)
    said = [line for line in capsys.readouterr().out.splitlines() if "tokenizer" not in line]
    assert said == [f"{folder}: {-(-len(names) * part // 4)}/{len(names)} parameters written" for part in (1, 2, 3)]
