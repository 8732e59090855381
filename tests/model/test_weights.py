"""Weights come from their files and seeds alone, and wrong files are refused."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import Olmo2Config, Olmo2ForCausalLM

from model.config import ModelConfig, PositionsConfig
from model.errors import ModelError
from model.export import save_hf
from model.transformer import Olmo2
from model.weights import hf_keys, hf_weights, initialise, parameter_shapes, random_weights
from tests.model.small import REPO, ROPE, small


def exported(folder: Path, positions: PositionsConfig, seed: int = 3) -> Path:
    weights = random_weights(small(), positions, seed)
    save_hf(folder, small(), positions, ((name, weights(name)) for name in parameter_shapes(small(), positions)))
    return folder


def test_values_depend_on_name_and_seed_alone() -> None:
    weights, again = (random_weights(small(), REPO, seed=1) for _ in range(2))
    names = list(parameter_shapes(small(), REPO))
    backwards = {name: again(name) for name in reversed(names)}
    assert all(torch.equal(weights(name), backwards[name]) for name in names)
    assert not torch.equal(weights("layers.0.mlp.gate_proj.weight"), weights("layers.1.mlp.gate_proj.weight"))
    other = random_weights(small(), REPO, seed=2)
    assert not torch.equal(weights("lm_head.weight"), other("lm_head.weight"))


def test_the_backbone_starts_alike_whatever_its_positions() -> None:
    rope, repo = random_weights(small(), ROPE, seed=1), random_weights(small(), REPO, seed=1)
    assert all(torch.equal(rope(name), repo(name)) for name in parameter_shapes(small(), ROPE))


def test_matrices_are_a_cut_normal_and_norms_one() -> None:
    config = ModelConfig(vocab_size=100_352, hidden_size=32, num_layers=1, num_heads=2)
    weights = random_weights(config, ROPE, seed=0)
    embedding = weights("embed_tokens.weight")
    assert embedding.abs().max() <= 0.06
    assert embedding.std().item() == pytest.approx(0.01973, rel=1e-2)
    assert embedding.mean().item() == pytest.approx(0, abs=1e-4)
    for name in ("norm", "layers.0.attention.q_norm", "layers.0.post_attention_norm", "layers.0.post_feedforward_norm"):
        assert weights(f"{name}.weight").eq(1).all()


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("embed_tokens.weight", "model.embed_tokens.weight"),
        ("norm.weight", "model.norm.weight"),
        ("lm_head.weight", "lm_head.weight"),
        ("layers.7.attention.q_norm.weight", "model.layers.7.self_attn.q_norm.weight"),
        ("layers.7.mlp.up_proj.weight", "model.layers.7.mlp.up_proj.weight"),
        ("layers.7.post_attention_norm.weight", "model.layers.7.post_attention_layernorm.weight"),
        ("layers.7.post_feedforward_norm.weight", "model.layers.7.post_feedforward_layernorm.weight"),
        ("layers.7.positions.gate.weight", "model.layers.7.self_attn.gate_map.weight"),
        ("layers.7.positions.content.weight", "model.layers.7.self_attn.content_map.weight"),
        ("layers.7.positions.final.weight", "model.layers.7.self_attn.final_map.weight"),
    ],
)
def test_names_are_those_of_published_checkpoints(ours: str, theirs: str) -> None:
    assert hf_keys(small(num_layers=8), REPO)[ours] == theirs


@pytest.mark.parametrize("max_shard_size", ["10GB", "40KB"])
def test_a_checkpoint_saved_by_transformers_is_read_whole(tmp_path: Path, max_shard_size: str) -> None:
    torch.manual_seed(0)
    config = small(num_kv_heads=2)
    theirs = Olmo2ForCausalLM(
        Olmo2Config(
            vocab_size=96,
            hidden_size=64,
            intermediate_size=112,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=2,
            rms_norm_eps=1e-6,
            rope_parameters={"rope_type": "default", "rope_theta": 500000.0},
            pad_token_id=None,
        )
    )
    theirs.save_pretrained(tmp_path, max_shard_size=max_shard_size)
    assert (len(list(tmp_path.glob("*.safetensors"))) > 1) == (max_shard_size == "40KB")
    ours, tokens = Olmo2(config, ROPE), torch.randint(96, (1, 9))
    initialise(ours, hf_weights(tmp_path, config, ROPE, seed=0), "cpu")
    torch.testing.assert_close(ours(tokens), theirs(tokens).logits, atol=1e-5, rtol=0)


def test_learned_maps_are_read_where_present_and_fresh_where_not(tmp_path: Path) -> None:
    name = "layers.1.positions.gate.weight"
    with_maps = hf_weights(exported(tmp_path / "repo", REPO, seed=3), small(), REPO, seed=5)
    assert torch.equal(with_maps(name), random_weights(small(), REPO, seed=3)(name))
    without = hf_weights(exported(tmp_path / "rope", ROPE, seed=3), small(), REPO, seed=5, is_conversion=True)
    assert torch.equal(without(name), random_weights(small(), REPO, seed=5)(name))
    assert torch.equal(without("lm_head.weight"), random_weights(small(), REPO, seed=3)("lm_head.weight"))


def test_half_precision_checkpoints_become_float32(tmp_path: Path) -> None:
    weights = random_weights(small(), ROPE, seed=0)
    tensors = ((name, weights(name).bfloat16()) for name in parameter_shapes(small(), ROPE))
    save_hf(tmp_path / "half", small(), ROPE, tensors)
    value = hf_weights(tmp_path / "half", small(), ROPE, seed=0)("lm_head.weight")
    assert value.dtype == torch.float32 and torch.equal(value, weights("lm_head.weight").bfloat16().float())


def test_everything_wrong_with_a_checkpoint_is_said_at_once(tmp_path: Path) -> None:
    folder = exported(tmp_path / "model", REPO)
    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.wieght"] = tensors.pop("model.norm.weight")
    del tensors["model.layers.2.self_attn.final_map.weight"]
    tensors["lm_head.weight"] = tensors["lm_head.weight"][:, :5].contiguous()
    save_file(tensors, folder / "model.safetensors")
    described = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(described | {"rope_theta": 10000.0, "rope_parameters": None}))
    with pytest.raises(ModelError) as raised:
        hf_weights(folder, small(), REPO, seed=0)
    message = str(raised.value)
    for part in (
        "config.json has rope_theta 10000.0 and not 500000.0",
        "2 missing keys (model.layers.2.self_attn.final_map.weight, model.norm.weight)",
        "1 unexpected keys (model.norm.wieght)",
        "1 other shapes (lm_head.weight is [96, 5] and not [96, 64])",
    ):
        assert part in message
    assert "\n" not in message


def remove_folder(folder: Path) -> None:
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()


def cut_in_half(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])


def with_index(weight_map: dict[str, object]) -> Callable[[Path], object]:
    text = json.dumps({"weight_map": weight_map})
    return lambda folder: (folder / "model.safetensors.index.json").write_text(text)


def beside_shards(folder: Path) -> None:
    shutil.copyfile(folder / "model.safetensors", folder / "model-00001-of-00001.safetensors")
    with safe_open(folder / "model.safetensors", framework="pt") as tensors:
        with_index(dict.fromkeys(tensors.keys(), "model-00001-of-00001.safetensors"))(folder)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (remove_folder, "is not a folder"),
        (lambda folder: (folder / "model.safetensors").unlink(), "holds no .safetensors"),
        (cut_in_half, "model.safetensors cannot be read"),
        (lambda folder: (folder / "config.json").unlink(), "config.json is absent"),
        (lambda folder: (folder / "config.json").write_text("{"), "config.json is not valid JSON"),
        (
            lambda folder: (folder / "model.safetensors.index.json").write_text('{"weight_map": {"x": "lost"}}'),
            "lost is named by the index but absent",
        ),
        (with_index({"x": 5}), "names 5, which is no file of its folder"),
        (with_index({"x": "../model/model.safetensors"}), "which is no file of its folder"),
        (beside_shards, "does not name model.safetensors beside it"),
        (
            lambda folder: shutil.copyfile(folder / "model.safetensors", folder / "more.safetensors"),
            "is in model.safetensors and in .*more.safetensors",
        ),
        (lambda folder: (folder / "config.json").write_text("[" * 100_000), "config.json is not valid JSON"),
    ],
)
def test_a_damaged_checkpoint_is_named_in_one_line(tmp_path: Path, damage: Callable[[Path], object], said: str) -> None:
    folder = exported(tmp_path / "model", ROPE)
    damage(folder)
    with pytest.raises(ModelError, match=said) as raised:
        hf_weights(folder, small(), ROPE, seed=0)
    assert "\n" not in str(raised.value)
