import subprocess
import sys

import pytest
from omegaconf import OmegaConf

from model.config import ModelConfig, PositionKind, PositionsConfig, Scheme, YarnConfig, layer_kinds, map_width
from model.errors import ModelError


def layers_of(kind: PositionKind, positions: PositionsConfig, num_layers: int) -> list[int]:
    return [layer for layer, found in enumerate(layer_kinds(positions, num_layers)) if found is kind]


def test_layers_get_the_published_positions() -> None:
    assert layers_of(PositionKind.repo, PositionsConfig(), 16) == list(range(5, 16))
    assert layers_of(PositionKind.repo, PositionsConfig(), 32) == list(range(10, 32))
    assert layers_of(PositionKind.rope, PositionsConfig(start_layer=3), 16) == [0, 1, 2]
    r2n1, n2r1 = PositionsConfig(scheme=Scheme.r2n1), PositionsConfig(scheme=Scheme.n2r1)
    assert layers_of(PositionKind.nope, r2n1, 16) == [2, 5, 8, 11, 14]
    assert layers_of(PositionKind.nope, n2r1, 16) == [0, 1, 3, 4, 6, 7, 9, 10, 12, 13, 15]


def test_any_other_arrangement_can_be_listed() -> None:
    kinds = [PositionKind.nope, PositionKind.repo, PositionKind.rope]
    assert layer_kinds(PositionsConfig(scheme=Scheme.list, layers=kinds), 3) == tuple(kinds)


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"num_heads": 3}, "model.num_heads is 3"),
        ({"hidden_size": 48}, "model.num_heads is 16"),
        ({"num_kv_heads": 3}, "model.num_kv_heads is 3"),
        ({"num_kv_heads": 0}, "model.num_kv_heads is 0"),
        ({"vocab_size": 100257}, "model.eos_token_id is 100257"),
        ({"num_layers": 0}, "model.num_layers is 0"),
        ({"rope_theta": 0.0}, "model.rope_theta is 0.0"),
        ({"loss_chunk_rows": 0}, "model.loss_chunk_rows is 0"),
    ],
)
def test_an_impossible_model_is_refused_by_its_key(changes: dict, key: str) -> None:
    with pytest.raises(ModelError, match=key):
        ModelConfig(**changes).validate()


@pytest.mark.parametrize(
    ("positions", "key"),
    [
        (PositionsConfig(start_layer=4), "positions.start_layer is 4"),
        (PositionsConfig(scheme=Scheme.rope, start_layer=1), "positions.start_layer is 1"),
        (PositionsConfig(scheme=Scheme.list), "positions.layers is null"),
        (PositionsConfig(layers=[PositionKind.rope]), "positions.layers is set"),
        (PositionsConfig(scheme=Scheme.list, layers=[PositionKind.rope]), "positions.layers lists 1"),
        (PositionsConfig(hidden_ratio=0), "positions.hidden_ratio is 0"),
        (PositionsConfig(yarn=YarnConfig(factor=0.5)), "positions.yarn.factor is 0.5"),
        (PositionsConfig(yarn=YarnConfig(beta_fast=1, beta_slow=2)), "positions.yarn.beta_fast is 1"),
    ],
)
def test_impossible_positions_are_refused_by_their_key(positions: PositionsConfig, key: str) -> None:
    with pytest.raises(ModelError, match=key):
        layer_kinds(positions, 4)


def test_an_inner_width_of_nothing_is_refused() -> None:
    with pytest.raises(ModelError, match=r"positions\.hidden_ratio is 65"):
        map_width(PositionsConfig(hidden_ratio=65), 64)


def test_configs_are_structured_configs() -> None:
    changes = {"scheme": "list", "layers": ["rope", "repo"], "yarn": {"factor": 2}}
    composed = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(PositionsConfig), changes))
    layers = [PositionKind.rope, PositionKind.repo]
    assert composed == PositionsConfig(scheme=Scheme.list, layers=layers, yarn=YarnConfig(factor=2.0))
    assert OmegaConf.to_object(OmegaConf.structured(ModelConfig)) == ModelConfig()


def test_configs_and_accounting_import_without_torch() -> None:
    code = "import sys, model, model.config, model.accounting; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
