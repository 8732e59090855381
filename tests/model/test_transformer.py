"""The model is transformers' OLMo-2 where it has the same positions."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import Olmo2Config, Olmo2ForCausalLM

from benchmarks.counters import Operators
from model.attention import Documents
from model.config import ModelConfig, NormPrecision, PositionsConfig
from model.positions.module import Positions
from model.transformer import Block, Olmo2, RMSNorm
from model.weights import hf_keys, initialise, random_weights
from tests.model import formulas
from tests.model.small import REPO, ROPE, built, small

KINDS = PositionsConfig(scheme="list", layers=["nope", "repo", "rope"])


def in_transformers(model: Olmo2, config: ModelConfig) -> Olmo2ForCausalLM:
    """The same weights in transformers' own OLMo-2."""
    theirs = Olmo2ForCausalLM(
        Olmo2Config(
            vocab_size=config.vocab_size,
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            num_hidden_layers=config.num_layers,
            num_attention_heads=config.num_heads,
            num_key_value_heads=config.num_kv_heads,
            rms_norm_eps=config.rms_norm_eps,
            rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
            pad_token_id=None,
            attn_implementation="eager",  # type: ignore[call-arg]  # not a field; the base takes it
        )
    )
    keys = hf_keys(config, ROPE)
    theirs.load_state_dict({keys[name]: value for name, value in model.state_dict().items()})
    return theirs


@pytest.mark.parametrize("num_kv_heads", [None, 2])
def test_logits_and_gradients_are_those_of_transformers(num_kv_heads: int | None) -> None:
    config = small(num_kv_heads=num_kv_heads)
    ours = built(config, ROPE, z_loss_weight=0.0)
    theirs = in_transformers(ours, config)
    tokens = torch.randint(96, (2, 40), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(ours(tokens), theirs(tokens).logits, atol=1e-5, rtol=0)

    sums = ours(tokens[:, :-1], labels=tokens[:, 1:])
    (sums.total / sums.num_valid).backward()
    theirs(tokens, labels=tokens).loss.backward()
    expected, keys = dict(theirs.named_parameters()), hf_keys(config, ROPE)
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[keys[name]].grad, atol=1e-5, rtol=1e-4)


def formula(model: Olmo2, config: ModelConfig, tokens: Tensor, kinds: tuple[str, ...]) -> Tensor:
    """The whole model in float64 from its state dict: attention by the row, rotation by complex numbers."""
    w = {name: value.double() for name, value in model.state_dict().items()}

    def norm(x: Tensor, name: str) -> Tensor:
        return x / (x.square().mean(-1, keepdim=True) + config.rms_norm_eps).sqrt() * w[f"{name}.weight"]

    def times(x: Tensor, name: str) -> Tensor:
        return x @ w[f"{name}.weight"].T

    h = w["embed_tokens.weight"][tokens]
    for number, kind in enumerate(kinds):
        at = f"layers.{number}"
        q = norm(times(h, f"{at}.attention.q_proj"), f"{at}.attention.q_norm").unflatten(-1, (-1, config.head_dim))
        k = norm(times(h, f"{at}.attention.k_proj"), f"{at}.attention.k_norm").unflatten(-1, (-1, config.head_dim))
        v = times(h, f"{at}.attention.v_proj").unflatten(-1, (-1, config.head_dim))
        if kind != "nope":
            z = torch.arange(h.shape[1]).double()[None, :, None].expand(*k.shape[:3])
            if kind == "repo":
                maps = (w[f"{at}.positions.{name}.weight"] for name in ("gate", "content", "final"))
                z = formulas.repo_positions(h, *maps)
            q = formulas.rotated(q, z.repeat_interleave(q.shape[2] // k.shape[2], 2), config.rope_theta)
            k = formulas.rotated(k, z, config.rope_theta)
        out = formulas.causal_attention(q, k, v).flatten(2)
        h = h + norm(times(out, f"{at}.attention.o_proj"), f"{at}.post_attention_norm")
        gate, up = times(h, f"{at}.mlp.gate_proj"), times(h, f"{at}.mlp.up_proj")
        h = h + norm(times(gate * gate.sigmoid() * up, f"{at}.mlp.down_proj"), f"{at}.post_feedforward_norm")
    return times(norm(h, "norm"), "lm_head")


@pytest.mark.parametrize("num_kv_heads", [4, 2])
def test_every_kind_of_layer_is_its_formula(num_kv_heads: int) -> None:
    config = small(num_kv_heads=num_kv_heads, initializer_range=0.3)  # wide enough for positions of tens
    model, tokens = built(config, KINDS), torch.randint(96, (2, 12))
    assert KINDS.layers is not None
    exact = formula(model, config, tokens, tuple(KINDS.layers))
    torch.testing.assert_close(model(tokens).double(), exact, atol=2e-4, rtol=0)
    torch.testing.assert_close(model.double()(tokens), exact, atol=1e-9, rtol=0)


def test_gradients_through_learned_positions_agree_with_finite_differences() -> None:
    model = built(small(vocab_size=8, num_kv_heads=2, initializer_range=0.3), KINDS).double()
    tokens = torch.randint(8, (1, 6))
    labels = tokens.roll(-1, 1)
    model(tokens, labels=labels).total.backward()
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        direction, step = torch.randn_like(parameter), 1e-6
        with torch.no_grad():
            parameter.add_(step * direction)
            above = model(tokens, labels=labels).total
            parameter.sub_(2 * step * direction)
            below = model(tokens, labels=labels).total
            parameter.add_(step * direction)
        slope = (parameter.grad * direction).sum().item()
        assert ((above - below) / (2 * step)).item() == pytest.approx(slope, rel=1e-5, abs=1e-6), name


def test_documents_are_read_as_if_they_were_alone() -> None:
    model = built(small(), REPO)
    tokens = torch.randint(96, (2, 10))
    logits = model(tokens, documents=Documents.from_boundaries([[0, 4, 10], [0, 10]]))
    torch.testing.assert_close(logits[:1, :4], model(tokens[:1, :4]), atol=1e-5, rtol=0)
    torch.testing.assert_close(logits[:1, 4:], model(tokens[:1, 4:]), atol=1e-5, rtol=0)
    torch.testing.assert_close(logits[1:], model(tokens[1:]), atol=1e-5, rtol=0)


def test_activation_checkpointing_changes_memory_and_nothing_else() -> None:
    tokens = torch.randint(96, (2, 16))
    grads, kept = [], []
    for checkpointing in (False, True):
        model = built(small(activation_checkpointing=checkpointing), REPO)
        sizes: list[int] = []

        def note(tensor: Tensor, sizes: list[int] = sizes) -> Tensor:
            sizes.append(tensor.nbytes)
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            total = model(tokens, labels=tokens).total
        kept.append(sum(sizes))
        total.backward()
        grads.append([parameter.grad for parameter in model.parameters()])
    for plain, recomputed in zip(*grads, strict=True):
        assert torch.equal(plain, recomputed)
    assert kept[1] < kept[0] / 3


def test_norms_compute_in_float32() -> None:
    norm = RMSNorm(64, small()).bfloat16()
    x = (30 * torch.randn(8, 64)).bfloat16()
    exact = x.double() / (x.double().square().mean(-1, keepdim=True) + 1e-6).sqrt()
    torch.testing.assert_close(norm(x), exact.bfloat16(), atol=0, rtol=2**-8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_norms_on_a_cpu_have_the_bits_of_torch_and_its_gradients_in_half_of_the_passes(dtype: torch.dtype) -> None:
    norm = RMSNorm(64, small()).to(dtype)
    x, g = (torch.randn(2, 40, 64, dtype=dtype) for _ in range(2))
    torch.nn.init.normal_(norm.weight, mean=1)

    def gradients(y: Tensor) -> tuple[tuple[Tensor, ...], int]:
        with Operators() as seen:
            found = torch.autograd.grad(y, (x, norm.weight), g)
        return found, seen.counts.bytes_moved

    x.requires_grad_()
    y, torchs = norm(x), F.rms_norm(x, (64,), norm.weight, 1e-6)
    assert torch.equal(y, torchs)
    (ours, bytes_of_ours), (theirs, bytes_of_torchs) = gradients(y), gradients(torchs)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=10 * torch.finfo(dtype).eps)
    assert bytes_of_ours < 0.7 * bytes_of_torchs


def published_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """RMSLayerNorm of the published trainer (OLMo), line by line."""
    wide = x.to(torch.float32)
    wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
    return weight * wide.to(x.dtype)


def test_reference_norms_round_where_the_published_trainer_does() -> None:
    torch.manual_seed(0)
    ours, reference = (RMSNorm(64, small(norm_precision=precision)).bfloat16() for precision in NormPrecision)
    x, weight = (3 * torch.randn(128, 64)).bfloat16(), torch.rand(64).bfloat16() + 0.5
    for norm in (ours, reference):
        norm.load_state_dict({"weight": weight})
    expected = published_norm(x, weight, 1e-6)
    assert reference(x).dtype == torch.bfloat16
    assert torch.equal(reference(x), expected)
    assert 0.1 < (ours(x) != expected).float().mean() < 0.9  # one rounding or two: the last bit
    torch.testing.assert_close(ours(x), expected, atol=0, rtol=2**-6)


def test_reference_norms_are_the_same_norms_in_float32() -> None:
    tokens = torch.randint(96, (1, 9))
    ours, reference = (built(small(norm_precision=precision), REPO) for precision in NormPrecision)
    for model in (ours, reference):
        model(tokens, labels=tokens).total.backward()
    torch.testing.assert_close(reference(tokens), ours(tokens), atol=1e-5, rtol=0)
    for one, other in zip(ours.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, atol=1e-4, rtol=1e-4)


def test_a_model_has_no_tensors_but_its_parameters() -> None:
    """No buffers: casting the model to bfloat16 or materialising it cannot touch a frequency."""
    model = built(small(), REPO)
    assert list(model.buffers()) == []
    block = model.layers[0]
    assert isinstance(block, Block)
    turns = block.attention.frequencies.turns(torch.device("cpu")).clone()
    assert turns.dtype == torch.float64
    model.bfloat16().to_empty(device="cpu")
    assert torch.equal(block.attention.frequencies.turns(torch.device("cpu")), turns)


def test_a_model_built_on_the_meta_device_is_the_same_model() -> None:
    config, tokens = small(), torch.randint(96, (1, 8))
    with torch.device("meta"):
        model = Olmo2(config, REPO)
    assert all(parameter.is_meta for parameter in model.parameters())
    initialise(model, random_weights(config, REPO, seed=0), "cpu")
    assert torch.equal(model(tokens), built(config, REPO, seed=0)(tokens))


def test_learned_positions_are_found_by_layer() -> None:
    found = list(built(small(), REPO).learned_positions())
    assert [layer for layer, _ in found] == [1, 2]
    assert all(isinstance(positions, Positions) for _, positions in found)
