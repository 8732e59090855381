"""model/positions/__init__.py: which schemes there are, and which layer gets which."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from model.accounting import flops_per_token, num_parameters
from model.config import ModelConfig, PositionsConfig, YarnConfig
from model.errors import ModelError
from model.hf_config import hf_config
from model.positions import (
    PATTERNS,
    SCHEMES,
    build_schemes,
    layer_schemes,
    learned_layers,
    overrides_for,
    scheme_class,
)
from model.positions.base import PositionScheme
from model.positions.module import Positions
from model.transformer import Olmo2
from model.weights import hf_keys, parameter_shapes, random_weights
from tests.model.small import small
from tests.train.tiny import tiny


def names(positions: PositionsConfig, num_layers: int) -> list[str]:
    return [scheme.name for scheme in layer_schemes(positions, num_layers)]


def layers_of(scheme: str, positions: PositionsConfig, num_layers: int) -> list[int]:
    return [layer for layer, name in enumerate(names(positions, num_layers)) if name == scheme]


def test_layers_get_the_published_positions() -> None:
    assert layers_of("repo", PositionsConfig(), 16) == list(range(5, 16))
    assert layers_of("repo", PositionsConfig(), 32) == list(range(10, 32))
    assert layers_of("rope", PositionsConfig(start_layer=3), 16) == [0, 1, 2]
    r2n1, n2r1 = PositionsConfig(scheme="r2n1"), PositionsConfig(scheme="n2r1")
    assert layers_of("nope", r2n1, 16) == [2, 5, 8, 11, 14]
    assert layers_of("nope", n2r1, 16) == [0, 1, 3, 4, 6, 7, 9, 10, 12, 13, 15]
    assert names(PositionsConfig(scheme="nope"), 2) == ["nope", "nope"]


def test_any_other_arrangement_can_be_listed() -> None:
    layers = ["nope", "repo", "rope"]
    assert names(PositionsConfig(scheme="list", layers=layers), 3) == layers


def test_learned_layers_are_known_without_a_model() -> None:
    found = learned_layers(PositionsConfig(), 6)
    assert list(found) == [2, 3, 4, 5]
    assert {tuple(scheme.symbols.values()) for scheme in found.values()} == {("W_g", "W_c", "W_z")}
    assert learned_layers(PositionsConfig(scheme="r2n1"), 6) == {}


@pytest.mark.parametrize(
    ("positions", "said"),
    [
        (PositionsConfig(start_layer=4), "positions.start_layer is 4"),
        (PositionsConfig(scheme="rope", start_layer=1), "positions.start_layer is 1, but positions.scheme=rope has no"),
        (PositionsConfig(scheme="r2n1", start_layer=0), "positions.start_layer is 0, but positions.scheme=r2n1 has no"),
        (PositionsConfig(scheme="list", start_layer=1, layers=["rope"] * 4), "positions.scheme=list has none"),
        (PositionsConfig(scheme="list"), "positions.layers is null"),
        (PositionsConfig(layers=["rope"]), "positions.layers is set"),
        (PositionsConfig(scheme="list", layers=["rope"]), "positions.layers lists 1"),
        (PositionsConfig(scheme="list", layers=["rope", "r2n1"]), "positions.layers names r2n1, which does not exist"),
        (PositionsConfig(hidden_divisor=0), "positions.hidden_divisor is 0"),
        (PositionsConfig(yarn=YarnConfig(factor=0.5)), "positions.yarn.factor is 0.5"),
        (PositionsConfig(yarn=YarnConfig(beta_fast=1, beta_slow=2)), "positions.yarn.beta_fast is 1"),
    ],
)
def test_impossible_positions_are_refused_by_their_key(positions: PositionsConfig, said: str) -> None:
    with pytest.raises(ModelError, match=said) as raised:
        layer_schemes(positions, 4)
    assert "\n" not in str(raised.value)


def test_an_inner_width_of_nothing_is_refused() -> None:
    with pytest.raises(ModelError, match=r"positions\.hidden_divisor is 65"):
        build_schemes(small(), PositionsConfig(hidden_divisor=65))


MISTYPED = PositionsConfig(scheme="repoo")
CONSUMERS: dict[str, Callable[[], Any]] = {
    "layers": lambda: layer_schemes(MISTYPED, 3),
    "learned layers": lambda: learned_layers(MISTYPED, 3),
    "parameters": lambda: num_parameters(small(), MISTYPED),
    "flops": lambda: flops_per_token(small(), MISTYPED, 24, causal=True),
    "model": lambda: Olmo2(small(), MISTYPED),
    "shapes": lambda: parameter_shapes(small(), MISTYPED),
    "keys": lambda: hf_keys(small(), MISTYPED),
    "fresh weights": lambda: random_weights(small(), MISTYPED, seed=0),
    "export": lambda: hf_config(small(), MISTYPED, "float32"),
    "run": lambda: tiny(Path(), positions=MISTYPED).validate(),
}


@pytest.mark.parametrize("consumer", CONSUMERS)
def test_an_unknown_scheme_is_an_error_for_everyone_who_asks(consumer: str) -> None:
    with pytest.raises(ModelError) as raised:
        CONSUMERS[consumer]()
    assert str(raised.value) == (
        "positions.scheme=repoo does not exist: choose one of list, n2r1, nope, r2n1, repo, residual, rope; "
        "did you mean 'repo'?"
    )


def test_an_unknown_name_is_answered_with_the_names_that_exist() -> None:
    with pytest.raises(
        ModelError, match=r"'rop' does not exist: choose one of nope, repo, residual, rope; did you mean 'rope'"
    ):
        scheme_class("rop")


@pytest.mark.parametrize("name", [*SCHEMES, *PATTERNS])
def test_a_scheme_says_of_itself_what_its_module_is(name: str) -> None:
    """Numbers of parameters, shapes and what is learned agree with the parameters that exist."""
    config, positions = ModelConfig(hidden_size=64, num_layers=6, num_heads=4, num_kv_heads=2), PositionsConfig(name)
    with torch.device("meta"):
        modules = [Positions(scheme) for scheme in build_schemes(config, positions)]
    for module in modules:
        scheme = module.scheme
        assert scheme.maps().keys() == scheme.symbols.keys() == scheme.hf_names.keys()
        assert scheme.num_parameters == sum(parameter.numel() for parameter in module.parameters())
        assert [name for name, _ in module.named_parameters()] == [f"{name}.weight" for name in scheme.maps()]
        assert scheme.is_learned == any(True for _ in module.parameters())


@pytest.mark.parametrize(
    ("layers", "arguments"),
    [
        (["rope"] * 3, "positions.scheme=rope positions.start_layer=null"),
        (["nope"] * 3, "positions.scheme=nope positions.start_layer=null"),
        (["rope", "repo", "repo"], "positions.scheme=repo positions.start_layer=null"),
        (["repo", "repo", "repo"], "positions.scheme=repo positions.start_layer=0"),
        (["rope", "rope", "nope"], "positions.scheme=r2n1 positions.start_layer=null"),
        (["nope", "repo"], "positions.scheme=list positions.start_layer=null 'positions.layers=[nope,repo]'"),
    ],
)
def test_arguments_for_layers_configure_these_layers(layers: list[str], arguments: str) -> None:
    assert overrides_for(layers, PositionsConfig()) == arguments


def test_names_of_maps_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(TypeError, match="Lost must name the same maps"):
        type("Lost", (PositionScheme,), {"name": "lost", "is_learned": True, "symbols": {"slope": "w"}})
