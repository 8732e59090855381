"""The rotation and its gradients are those of a float64 reference."""

import math

import pytest
import torch
from transformers import Olmo2Config
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from model.config import ModelConfig, PositionPrecision, PositionsConfig, YarnConfig
from model.rotary import Frequencies, rotate
from tests.model import formulas
from tests.model.small import small

THETA = 500000.0


def random_qkz(
    dtype: torch.dtype = torch.float32, num_kv_heads: int = 2, spread: float = 10.0
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    q = torch.randn(2, 7, 4, 16).to(dtype)
    k = torch.randn(2, 7, num_kv_heads, 16).to(dtype)
    z = torch.randn(2, 7, num_kv_heads, dtype=torch.promote_types(dtype, torch.float32)) * spread
    return q, k, z


def table(**positions: object) -> Frequencies:
    return Frequencies(small(), PositionsConfig(**positions))  # type: ignore[arg-type]


@pytest.mark.parametrize("spread", [1.0, 1e3, 1e6])
def test_rotation_is_the_formula_at_any_distance(spread: float) -> None:
    q, k, z = random_qkz(spread=spread)
    q_turned, k_turned = rotate(q, k, z, table())
    torch.testing.assert_close(
        q_turned.double(), formulas.rotated(q, z.repeat_interleave(2, 2), THETA), atol=2e-6, rtol=0
    )
    torch.testing.assert_close(k_turned.double(), formulas.rotated(k, z, THETA), atol=2e-6, rtol=0)


def test_the_published_table_is_accurate_over_a_million_integer_positions() -> None:
    frequencies = Frequencies(ModelConfig(), PositionsConfig())
    positions = torch.tensor([0, 1, 4095, 4096, 65535, 131071, 999_983])
    ones = torch.ones(1, len(positions), 1, 128)
    turned, _ = rotate(ones, ones, positions, frequencies)
    exact = formulas.rotated(ones, positions[None, :, None], THETA)
    torch.testing.assert_close(turned.double(), exact, atol=1e-6, rtol=0)


def test_integer_positions_through_the_learned_path_equal_rope_bit_for_bit() -> None:
    q, k, _ = random_qkz()
    indices = torch.arange(7)
    learned = indices.float()[None, :, None].expand(2, 7, 2)
    for by_index, by_map in zip(rotate(q, k, indices, table()), rotate(q, k, learned, table()), strict=True):
        assert torch.equal(by_index, by_map)


@pytest.mark.parametrize("num_kv_heads", [4, 2, 1])
def test_gradients_agree_with_finite_differences(num_kv_heads: int) -> None:
    q, k, z = (x.requires_grad_() for x in random_qkz(torch.float64, num_kv_heads))
    frequencies = table(yarn=YarnConfig(factor=4.0))
    assert torch.autograd.gradcheck(lambda q, k, z: rotate(q, k, z, frequencies), (q, k, z), fast_mode=True)
    assert torch.autograd.gradcheck(lambda q, k: rotate(q, k, torch.arange(7), frequencies), (q, k), fast_mode=True)


def test_moving_every_position_alike_changes_no_score() -> None:
    q, k, z = random_qkz(num_kv_heads=4)
    z = z.round(decimals=0) / 8  # so that z + shift is exact in float32
    scores = []
    for shift in (0.0, 1024.0):
        q_turned, k_turned = rotate(q, k, z + shift, table())
        scores.append(torch.einsum("bqhd,bkhd->bhqk", q_turned, k_turned))
    torch.testing.assert_close(scores[0], scores[1], atol=1e-5, rtol=0)


def test_dtypes_are_kept_and_arithmetic_is_float32() -> None:
    q, k, z = random_qkz(torch.bfloat16)
    q_turned, k_turned = rotate(q, k, z, table())
    assert q_turned.dtype == k_turned.dtype == torch.bfloat16
    exact = formulas.rotated(k, z, THETA)
    torch.testing.assert_close(k_turned, exact.to(torch.bfloat16), atol=1e-6, rtol=2**-7)


def test_reference_precision_rounds_cosine_and_sine_to_bfloat16() -> None:
    q, k, z = random_qkz(torch.bfloat16)
    reference = table(precision=PositionPrecision.reference)
    w = THETA ** -(torch.arange(8) / 8)
    cos, sin = ((f(z[..., None] * w)).bfloat16().float() for f in (torch.cos, torch.sin))
    k1, k2 = k.float().chunk(2, -1)
    published = torch.cat((k1 * cos - k2 * sin, k2 * cos + k1 * sin), -1).bfloat16()
    turned = rotate(q, k, z, reference)[1]
    torch.testing.assert_close(turned, published, atol=2e-2, rtol=0)
    # Angles may differ in their last bits, and with them a rounded cosine now and then, but no more.
    assert (turned != published).float().mean() < 0.01
    assert (turned != rotate(q, k, z, table())[1]).float().mean() > 0.05


def yarn_table(config: ModelConfig, yarn: YarnConfig) -> torch.Tensor:
    """YaRN from its paper: the ramp is over the number of turns r_i that a pair makes within the original context."""
    w = config.rope_theta ** -(torch.arange(0, config.head_dim, 2, dtype=torch.float64) / config.head_dim)

    def pair(turns: float) -> float:
        return config.head_dim * math.log(yarn.original_max_position / (turns * 2 * math.pi)) / 2 / math.log(THETA)

    low, high = math.floor(pair(yarn.beta_fast)), math.ceil(pair(yarn.beta_slow))
    keep = 1 - ((torch.arange(len(w), dtype=torch.float64) - low) / (high - low)).clamp(0, 1)
    return w * keep + w / yarn.factor * (1 - keep)


@pytest.mark.parametrize("factor", [2.0, 4.0])
def test_yarn_is_its_formula_and_what_transformers_computes(factor: float) -> None:
    config, yarn = ModelConfig(), YarnConfig(factor=factor)
    frequencies = Frequencies(config, PositionsConfig(yarn=yarn))
    radians = frequencies.turns(torch.device("cpu")) * 2 * math.pi
    plain = Frequencies(config, PositionsConfig()).turns(torch.device("cpu")) * 2 * math.pi
    torch.testing.assert_close(radians, yarn_table(config, yarn), rtol=1e-12, atol=0)
    torch.testing.assert_close(radians[:15], plain[:15], rtol=1e-12, atol=0)
    torch.testing.assert_close(radians[32:], plain[32:] / factor, rtol=1e-12, atol=0)

    rope = {"rope_type": "yarn", "factor": factor, "original_max_position_embeddings": 4096, "rope_theta": THETA}
    theirs = Olmo2Config(hidden_size=2048, num_attention_heads=16, rope_parameters=rope)
    inv_freq, attention_factor = ROPE_INIT_FUNCTIONS["yarn"](theirs, device=torch.device("cpu"))
    torch.testing.assert_close(radians.float(), inv_freq, rtol=2e-6, atol=0)
    assert frequencies.attention_factor == pytest.approx(attention_factor) == pytest.approx(0.1 * math.log(factor) + 1)


def test_yarn_scales_what_it_rotates() -> None:
    q, k, z = random_qkz()
    yarn = YarnConfig(factor=4.0)
    turned = rotate(q, k, z, table(yarn=yarn))[1]
    exact = formulas.rotated(k, z, THETA, yarn_table(small(), yarn)) * (0.1 * math.log(4) + 1)
    torch.testing.assert_close(turned.double(), exact, atol=2e-6, rtol=0)


def test_the_compiled_rotation_is_one_graph_and_agrees() -> None:
    torch.compiler.reset()
    q, k, z = (x.requires_grad_() for x in random_qkz(torch.bfloat16))
    frequencies = table()

    def turn(q: torch.Tensor, k: torch.Tensor, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return rotate(q, k, z, frequencies)

    results = []
    for run in (turn, torch.compile(turn, fullgraph=True, backend="aot_eager")):
        turned = run(q, k, z)
        results.append((*turned, *torch.autograd.grad(turned, (q, k, z), (q.detach(), k.detach()))))
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected)
