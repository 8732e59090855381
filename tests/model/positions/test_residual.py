"""Residual positions begin as RoPE to the bit, learn deviations from the index, and travel through exports."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from model.config import PositionPrecision, PositionsConfig, YarnConfig
from model.errors import ModelError
from model.export import save_hf
from model.generate import learned_positions, next_tokens
from model.positions import layer_schemes
from model.positions.residual import Residual
from model.rotary import Frequencies, rotate
from model.transformer import Olmo2
from model.weights import hf_weights, initialise, random_weights
from tests.composing import compose
from tests.model.small import ROPE, built, small

RESIDUAL = PositionsConfig("residual", start_layer=1)
YARN = YarnConfig(factor=4.0, original_max_position=16)
TOKENS = torch.randint(2, 96, (2, 40), generator=torch.Generator().manual_seed(0))


def trained(positions: PositionsConfig = RESIDUAL, **sizes: Any) -> Olmo2:
    """A model whose deviations are a few positions wide."""
    model = built(small(**sizes), positions)
    for layer, module in model.learned_positions():
        final = module.get_parameter("final.weight")
        with torch.no_grad():
            final.copy_(torch.randn(final.shape, generator=torch.Generator().manual_seed(layer)))
    spreads = [float(z.std()) for z in learned_positions(model, TOKENS[0]).values()]
    assert len(spreads) == 2 and all(0.3 < spread < 30 for spread in spreads)
    return model


def logits(model: Olmo2) -> Tensor:
    with torch.no_grad():
        return model(TOKENS)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("precision", PositionPrecision)
def test_it_begins_as_rope_to_the_bit(dtype: torch.dtype, precision: PositionPrecision) -> None:
    rope, residual = (
        built(small(num_kv_heads=2), PositionsConfig(name, precision=precision, yarn=YARN)).to(dtype)
        for name in ("rope", "residual")
    )
    assert torch.equal(logits(residual), logits(rope))
    for model in (rope, residual):
        model(TOKENS, labels=TOKENS).total.backward()
    shared = dict(rope.named_parameters())
    for name, parameter in residual.named_parameters():
        assert parameter.grad is not None
        if name in shared:
            torch.testing.assert_close(parameter.grad, shared[name].grad)
        else:  # only the last map can learn in the first step
            assert bool(parameter.grad.any()) == name.endswith("positions.final.weight")


def test_a_rope_backbone_becomes_residual_without_a_change(tmp_path: Path) -> None:
    backbone = built(small(), ROPE)
    save_hf(tmp_path / "backbone", small(), ROPE, backbone.named_parameters())
    model = Olmo2(small(), RESIDUAL)
    initialise(model, hf_weights(tmp_path / "backbone", small(), RESIDUAL, seed=3, is_conversion=True), "cpu")
    assert torch.equal(logits(model), logits(backbone))
    fresh = random_weights(small(), RESIDUAL, seed=3)
    assert torch.equal(model.get_parameter("layers.1.positions.gate.weight"), fresh("layers.1.positions.gate.weight"))


def test_rotations_are_those_of_the_index_and_the_deviation() -> None:
    """Without YaRN the angle is w (index + z); with it, only the index is stretched."""
    config, heads = small(), 4
    q, k = (torch.randn(2, 40, heads, 16, dtype=torch.float64) for _ in range(2))
    z, index_t = 3 * torch.randn(2, 40, heads, dtype=torch.float64), torch.arange(40)
    plain = Frequencies(config, PositionsConfig())
    for ours, sums in zip(rotate(q, k, z, plain, index_t), rotate(q, k, index_t[:, None] + z, plain), strict=True):
        torch.testing.assert_close(ours, sums)
    stretched = Frequencies(config, PositionsConfig(yarn=YARN))
    cpu = torch.device("cpu")
    assert torch.equal(stretched.deviation_turns(cpu), plain.turns(cpu))
    assert not torch.equal(stretched.turns(cpu), plain.turns(cpu))
    angle = 2 * math.pi * (index_t[:, None, None] * stretched.turns(cpu) + z[..., None] * plain.turns(cpu))
    first, second = q.chunk(2, dim=-1)
    expected = torch.cat(
        [first * angle.cos() - second * angle.sin(), second * angle.cos() + first * angle.sin()], dim=-1
    )
    torch.testing.assert_close(rotate(q, k, z, stretched, index_t)[0], expected * stretched.attention_factor)


def test_gradients_of_deviations_are_those_of_finite_differences() -> None:
    frequencies, index_t = Frequencies(small(), PositionsConfig(yarn=YARN)), torch.arange(7)
    q, k = (torch.randn(2, 7, heads, 16, dtype=torch.float64, requires_grad=True) for heads in (4, 2))
    z = torch.randn(2, 7, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda q, k, z: rotate(q, k, z, frequencies, index_t), (q, k, z), fast_mode=True)


def test_a_small_deviation_survives_a_large_index() -> None:
    """float32 at 2**20 has steps of 1/8: a sum would lose the deviation."""
    ones, z = torch.ones(1, 1, 4, 16), torch.full((1, 1, 4), 0.01)
    frequencies, index_t = Frequencies(small(), PositionsConfig()), torch.tensor([2**20])
    turned = rotate(ones, ones, z, frequencies, index_t)[0]
    exact = rotate(ones.double(), ones.double(), z.double() + 2**20, frequencies)[0]
    torch.testing.assert_close(turned.double(), exact, atol=2e-6, rtol=0)


@pytest.mark.parametrize("yarn", [None, YARN])
def test_exported_code_computes_the_same_and_the_export_loads(tmp_path: Path, yarn: YarnConfig | None) -> None:
    positions, sizes = PositionsConfig("residual", start_layer=1, yarn=yarn), {"num_kv_heads": 2}
    model, config = trained(positions, **sizes), small(**sizes)
    expected = logits(model)
    assert not torch.allclose(expected, logits(built(config, PositionsConfig("rope", yarn=yarn))), atol=1e-2)
    save_hf(tmp_path / "hf", config, positions, model.named_parameters(), max_position_embeddings=64)
    from_pretrained: Any = AutoModelForCausalLM.from_pretrained
    loaded = from_pretrained(tmp_path / "hf", trust_remote_code=True).eval()
    with torch.no_grad():
        output = loaded(TOKENS, output_positions=True)
    assert torch.equal(output.logits, expected) and output.position_layers == (1, 2)
    assert torch.equal(output.positions[0][0], learned_positions(model, TOKENS[0])[1])
    prompt = TOKENS[:1, :20]
    generated = loaded.generate(prompt, max_new_tokens=12, do_sample=False, eos_token_id=None)
    ours = next_tokens(model, prompt[0], temperature=0.0, generator=torch.Generator())
    assert generated[0, 20:].tolist() == [next(ours) for _ in range(12)]
    again = Olmo2(config, positions)
    initialise(again, hf_weights(tmp_path / "hf", config, positions, seed=9), "cpu")
    assert torch.equal(logits(again), expected)
    with pytest.raises(ModelError, match="residual in layers 1-2"):
        hf_weights(tmp_path / "hf", config, PositionsConfig("repo", start_layer=1, yarn=yarn), seed=9)


def test_generating_with_kept_keys_gives_the_tokens_of_the_whole_text() -> None:
    model, tokens = trained(), TOKENS[0, :8]
    following = next_tokens(model, tokens, temperature=0.0, generator=torch.Generator())
    for _ in range(12):
        with torch.no_grad():
            expected = int(model(tokens[None])[0, -1].argmax())
        assert next(following) == expected
        tokens = torch.cat((tokens, torch.tensor([expected])))


def test_a_shift_of_all_deviations_changes_nothing() -> None:
    """Only differences of positions enter attention, as of RePo's: what the gradient's residual rests on."""
    model = trained()
    expected = logits(model)
    for _, module in model.learned_positions():
        module.register_forward_hook(lambda _, __, z: z + 17.0)
    torch.testing.assert_close(logits(model), expected, atol=1e-4, rtol=0)


def test_it_stands_beside_the_papers_schemes() -> None:
    config = compose("experiment=residual-1b-50b")
    assert config.name == "residual-1b-50b" and config.positions == PositionsConfig("residual")
    assert [kind is Residual for kind in layer_schemes(config.positions, 16)] == [layer >= 5 for layer in range(16)]
