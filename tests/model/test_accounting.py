"""Closed forms of parameters and FLOPs equal what the built model has."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from model.accounting import flops_per_token, num_parameters
from model.config import AttentionBackend, ModelConfig, PositionsConfig
from model.weights import parameter_shapes
from tests.model.small import REPO, ROPE, built, small

OLMO2_7B = ModelConfig(hidden_size=4096, intermediate_size=11008, num_layers=32, num_heads=32)


def counted(config: ModelConfig, positions: PositionsConfig) -> int:
    return sum(torch.Size(shape).numel() for shape in parameter_shapes(config, positions).values())


@pytest.mark.parametrize(
    ("config", "backbone", "repo"),
    [(ModelConfig(), 1_484_916_736, 11_579_392), (OLMO2_7B, 7_298_617_344, 92_635_136)],
    ids=["1B", "7B"],
)
def test_published_sizes(config: ModelConfig, backbone: int, repo: int) -> None:
    assert num_parameters(config, ROPE) == counted(config, ROPE) == backbone
    assert num_parameters(config, PositionsConfig()) == counted(config, PositionsConfig()) == backbone + repo


def test_sizes_with_shared_key_heads() -> None:
    config = small(num_kv_heads=2)
    assert num_parameters(config, REPO) == counted(config, REPO)
    assert num_parameters(config, PositionsConfig(scheme="r2n1")) == counted(config, ROPE)


def test_published_cost_of_the_1b_model() -> None:
    costs = {
        (name, causal): flops_per_token(ModelConfig(), positions, 4096, causal) / 1e9
        for name, positions in (("rope", ROPE), ("repo", PositionsConfig()))
        for causal in (False, True)
    }
    assert costs["rope", False] == pytest.approx(9.286, abs=1e-3)
    assert costs["rope", True] == pytest.approx(8.481, abs=1e-3)
    assert costs["repo", False] == pytest.approx(9.356, abs=1e-3)
    assert costs["repo", True] == pytest.approx(8.550, abs=1e-3)


@pytest.mark.parametrize("num_kv_heads", [4, 2])
def test_closed_form_equals_the_products_that_run(num_kv_heads: int) -> None:
    config = small(num_kv_heads=num_kv_heads, attention=AttentionBackend.plain)
    model, tokens = built(config, REPO), torch.randint(96, (2, 24))
    with FlopCounterMode(display=False) as counter:
        model(tokens, labels=tokens).total.backward()
    assert counter.get_total_flops() == flops_per_token(config, REPO, 24, causal=False) * tokens.numel()
