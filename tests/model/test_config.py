"""A model config that does not fit is refused by key, value and remedy."""

import subprocess
import sys

import pytest
from omegaconf import OmegaConf

from model.config import ModelConfig, PositionsConfig, YarnConfig
from model.errors import ModelError


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"num_heads": 3}, "model.num_heads is 3"),
        ({"hidden_size": 48}, "model.num_heads is 16"),
        ({"num_kv_heads": 3}, "model.num_kv_heads is 3"),
        ({"num_kv_heads": 0}, "model.num_kv_heads is 0"),
        ({"vocab_size": 100257}, "model.eos_token_id is 100257"),
        ({"other_eos_token_ids": [3, -1]}, "model.other_eos_token_ids is -1"),
        ({"num_layers": 0}, "model.num_layers is 0"),
        ({"rope_theta": 0.0}, "model.rope_theta is 0.0"),
        ({"loss_chunk_rows": 0}, "model.loss_chunk_rows is 0"),
    ],
)
def test_an_impossible_model_is_refused_by_its_key(changes: dict, key: str) -> None:
    with pytest.raises(ModelError, match=key):
        ModelConfig(**changes).validate()


def test_configs_are_structured_configs() -> None:
    changes = {"scheme": "list", "layers": ["rope", "repo"], "yarn": {"factor": 2}}
    composed = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(PositionsConfig), changes))
    assert composed == PositionsConfig(scheme="list", layers=["rope", "repo"], yarn=YarnConfig(factor=2.0))
    assert OmegaConf.to_object(OmegaConf.structured(ModelConfig)) == ModelConfig()


def test_configs_schemes_and_accounting_import_without_torch() -> None:
    code = (
        "import sys, model.config, model.accounting, model.positions, model.hf_config; sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
