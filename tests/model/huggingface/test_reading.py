"""What a folder says of itself is the model that was written to it."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from model.config import ModelConfig, NormPrecision, PositionPrecision, PositionsConfig, YarnConfig
from model.errors import ModelError
from model.export import save_hf
from model.huggingface.flavours import Flavour
from model.huggingface.reading import read_configs
from model.weights import open_hf
from tests.model.small import REPO, ROPE, built, small

MODELS: dict[str, tuple[ModelConfig, PositionsConfig]] = {
    "rope": (small(), ROPE),
    "grouped": (small(num_kv_heads=2, rope_theta=1e4, rms_norm_eps=1e-5), ROPE),
    "repo": (small(), PositionsConfig("repo")),
    "narrow": (small(), PositionsConfig("repo", start_layer=2, hidden_divisor=16)),
    "n2r1": (small(), PositionsConfig("n2r1")),
    "mixed": (small(num_kv_heads=1), PositionsConfig("list", layers=["nope", "repo", "rope"])),
    "yarn": (small(), PositionsConfig("repo", yarn=YarnConfig(factor=2.0, original_max_position=64, beta_fast=16.0))),
    "reference": (
        small(norm_precision=NormPrecision.reference),
        PositionsConfig("nope", precision=PositionPrecision.reference),
    ),
}


YARN = {"rope_type": "yarn", "rope_theta": 5e5, "factor": 2.0, "original_max_position_embeddings": 64}


@pytest.mark.parametrize("flavour", [None, *Flavour])
@pytest.mark.parametrize("name", MODELS)
def test_a_folder_describes_the_model_that_was_written(tmp_path: Path, name: str, flavour: Flavour | None) -> None:
    config, positions = MODELS[name]
    if (flavour is Flavour.olmo2 and name not in ("rope", "grouped")) or flavour is Flavour.published:
        config, positions = MODELS["repo" if flavour is Flavour.published else "rope"]
    save_hf(tmp_path / "out", config, positions, built(config, positions).named_parameters(), flavour=flavour)
    found_config, found = read_configs(open_hf(tmp_path / "out"))
    assert found_config == dataclasses.replace(config, num_kv_heads=config.key_value_heads, loss_chunk_rows=4096)
    assert found == positions


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"hidden_size": None}, "config.json has no number hidden_size"),
        ({"vocab_size": 96.5}, "config.json has no number vocab_size"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers 1000000000, but there are only 42 tensors"),
        ({"num_hidden_layers": True}, "config.json has no number num_hidden_layers"),
        ({"num_key_value_heads": "4"}, "config.json's num_key_value_heads is '4', no number"),
        ({"eos_token_id": []}, "an eos_token_id of its configs is [], no number"),
        ({"rope_scaling": YARN | {"factor": -2.0}, "rope_parameters": None}, "positions.yarn.factor is -2.0; it must"),
        (
            {"rope_scaling": YARN | {"original_max_position_embeddings": float("inf")}, "rope_parameters": None},
            "cannot convert float infinity",
        ),
        ({"rope_theta": None, "rope_parameters": None}, "config.json has no rope_theta"),
        ({"eos_token_id": None}, "config.json has no eos_token_id"),
        ({"num_attention_heads": 7}, "which does not cut model.hidden_size 64"),
        ({"position_precision": "half"}, "'half' is not a valid PositionPrecision"),
        ({"layer_positions": ["rope", "cope", "repo"]}, 'names "cope", which is no position scheme here'),
    ],
)
def test_a_description_that_is_incomplete_is_refused(tmp_path: Path, changes: dict[str, object], said: str) -> None:
    save_hf(tmp_path / "out", small(), REPO, built(small(), REPO).named_parameters())
    path = tmp_path / "out" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    (tmp_path / "out" / "generation_config.json").unlink()  # where an EOS token may be too
    with pytest.raises(ModelError) as raised:
        read_configs(open_hf(tmp_path / "out"))
    assert said in str(raised.value) and str(tmp_path / "out") in str(raised.value)


@pytest.mark.parametrize("positions", [ROPE, REPO])
def test_every_eos_token_is_kept(tmp_path: Path, positions: PositionsConfig) -> None:
    save_hf(tmp_path / "out", small(), positions, built(small(), positions).named_parameters())
    for name, changes in (
        ("config.json", {"eos_token_id": [7, 8], "pad_token_id": None}),
        ("generation_config.json", {"eos_token_id": [8, 9]}),
    ):
        path = tmp_path / "out" / name
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    config, found = read_configs(open_hf(tmp_path / "out"))
    assert (config.eos_token_ids, config.pad_token_id) == ([7, 8, 9], 7)
    save_hf(tmp_path / "again", config, found, built(config, found).named_parameters())
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "again", trust_remote_code=True)
    assert model.config.eos_token_id == model.generation_config.eos_token_id == [7, 8, 9]


def test_weights_can_be_read_as_they_are_stored(tmp_path: Path) -> None:
    model = built(small(), REPO)
    save_hf(tmp_path / "out", small(), REPO, model.named_parameters(), dtype=torch.bfloat16)
    assert open_hf(tmp_path / "out").read("lm_head.weight").dtype == torch.bfloat16
