"""OLMo-2 (arXiv 2501.00656) with positions as modules.

Norms are applied after each sublayer: a block adds norm(attention(h)) and norm(mlp(h)) to the residual stream, and q
and k are normalised over their full width before they are split into heads. One line of `Block` is not OLMo-2's: the
positions of a layer come from a module that reads the block's input.
"""

from collections.abc import Iterator
from typing import Any, overload

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from model.attention import Documents, attention, resolve_backend
from model.config import ModelConfig, NormPrecision, PositionsConfig
from model.loss import LMHead, LossSums
from model.norm_rotate import normalise_and_rotate, resolve_kernel
from model.positions import build_schemes
from model.positions.module import Positions
from model.rotary import Frequencies

WIDE = (torch.float32, torch.float64)


class RMSNorm(nn.RMSNorm):
    """x / rms(x) * weight over the last dimension; float32 inside for every dtype of x.

    In bfloat16 it rounds once, after the weight. `model.norm_precision=reference` rounds x / rms(x) as well, as the
    published trainer does (OLMo's RMSLayerNorm): the two differ by a bit wherever a weight is not 1.
    """

    def __init__(self, width: int, config: ModelConfig) -> None:
        super().__init__(width, eps=config.rms_norm_eps)
        self._eps = config.rms_norm_eps
        self._rounds_before_weight = config.norm_precision is NormPrecision.reference

    def forward(self, x: Tensor) -> Tensor:
        """Returns a tensor of the shape and dtype of x."""
        if not self._rounds_before_weight:
            has_no_kernel = x.device.type == "cpu" and x.dtype == self.weight.dtype in WIDE
            if has_no_kernel and torch.is_grad_enabled() and not torch.compiler.is_compiling():
                y: Tensor = _NormOnCpu.apply(x, self.weight, self._eps)
                return y
            return super().forward(x)
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        unit = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self._eps)
        return self.weight * unit.to(x.dtype)


class _NormOnCpu(torch.autograd.Function):
    """RMSNorm where torch has no kernel for it: the same bits forward, in half of the passes over memory backward.

    With u = x / rms(x) and g the gradient of the result: dx = (g w - u mean(g w u)) / rms(x), dw = sum(g u).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        scale = torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)
        ctx.save_for_backward(x, weight, scale)
        return (x * scale).mul_(weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight, scale = ctx.saved_tensors
        unit = x * scale
        slope_nd = (grad * unit).flatten(0, -2)
        mean = (slope_nd @ weight).view(scale.shape).div_(x.shape[-1])
        return (grad * weight).sub_(unit.mul_(mean)).mul_(scale), slope_nd.sum(0), None


class Embedding(nn.Embedding):
    """nn.Embedding that draws no values on the meta device, where torch imports its compiler for that (1 s of CPU)."""

    def reset_parameters(self) -> None:
        """Draws values, which `model.weights.initialise` replaces, on a device that holds any."""
        if not self.weight.is_meta:
            super().reset_parameters()


class MLP(nn.Module):
    """SwiGLU: down(silu(gate(h)) * up(h))."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, h_btd: Tensor) -> Tensor:
        """Returns [B, T, d]."""
        return self.down_proj(F.silu(self.gate_proj(h_btd)) * self.up_proj(h_btd))


class Attention(nn.Module):
    """Causal self-attention; q and k are normalised, split into heads, and rotated by their positions, if any.

    With `adds_index`, positions are deviations from the index of a token.
    """

    def __init__(self, config: ModelConfig, frequencies: Frequencies, adds_index: bool = False) -> None:
        super().__init__()
        self.adds_index = adds_index
        kv_width = config.key_value_heads * config.head_dim
        self.q_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=False)
        self.k_proj = nn.Linear(config.hidden_size, kv_width, bias=False)
        self.v_proj = nn.Linear(config.hidden_size, kv_width, bias=False)
        self.o_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=False)
        self.q_norm = RMSNorm(config.hidden_size, config)
        self.k_norm = RMSNorm(kv_width, config)
        self.head_dim = config.head_dim
        self.frequencies = frequencies
        self.backend = resolve_backend(config.attention)
        self.kernel = resolve_kernel(config.kernel, config.norm_precision, frequencies.precision)

    def forward(self, h_btd: Tensor, positions: Tensor | None, documents: Documents | None) -> Tensor:
        """Returns [B, T, d]; `positions` is [T], [B, T, H_kv] or None for no rotation."""
        q_bthd, k_bthd, v_bthd = self.heads(h_btd, positions)
        out_bthd = attention(q_bthd, k_bthd, v_bthd, backend=self.backend, documents=documents)
        return self.o_proj(out_bthd.flatten(2))

    def heads(self, h_btd: Tensor, positions: Tensor | None, start: int = 0) -> tuple[Tensor, Tensor, Tensor]:
        """Returns q [B, T, H, D], k and v [B, T, H_kv, D]; q and k normalised and rotated.

        `start` is the index of the first token, for positions that are deviations.
        """
        q_btd, k_btd, v_btd = self.q_proj(h_btd), self.k_proj(h_btd), self.v_proj(h_btd)
        index_t = torch.arange(start, start + h_btd.shape[1], device=h_btd.device) if self.adds_index else None
        q_bthd, k_bthd = normalise_and_rotate(
            q_btd, k_btd, self.q_norm, self.k_norm, positions, self.frequencies, self.kernel, index_t
        )
        return q_bthd, k_bthd, v_btd.unflatten(-1, (-1, self.head_dim))


class Block(nn.Module):
    """One layer: h + norm(attention(h)), then h + norm(mlp(h)). `positions` reads h before any norm."""

    def __init__(self, config: ModelConfig, positions: Positions, frequencies: Frequencies) -> None:
        super().__init__()
        self.positions = positions
        self.attention = Attention(config, frequencies, positions.scheme.adds_index)
        self.post_attention_norm = RMSNorm(config.hidden_size, config)
        self.mlp = MLP(config)
        self.post_feedforward_norm = RMSNorm(config.hidden_size, config)

    def forward(self, h_btd: Tensor, documents: Documents | None) -> Tensor:
        """Returns the residual stream [B, T, d] after this layer."""
        positions = self.positions(h_btd)
        return self.after_attention(h_btd, self.attention(h_btd, positions, documents))

    def after_attention(self, h_btd: Tensor, attended_btd: Tensor) -> Tensor:
        """Returns the residual stream after this layer from the one before it and the output of attention."""
        h_btd = h_btd + self.post_attention_norm(attended_btd)
        return h_btd + self.post_feedforward_norm(self.mlp(h_btd))


class Olmo2(nn.Module):
    """The language model. It is built on any device, the meta device included, and filled by `weights.initialise`.

    Raises ModelError if the configs contradict each other or a back end is absent.
    """

    def __init__(self, config: ModelConfig, positions: PositionsConfig, z_loss_weight: float = 1e-4) -> None:
        super().__init__()
        config.validate()
        self.frequencies = Frequencies(config, positions)
        self.embed_tokens = Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(
            Block(config, Positions(scheme), self.frequencies) for scheme in build_schemes(config, positions)
        )
        self.norm = RMSNorm(config.hidden_size, config)
        self.lm_head = LMHead(config.hidden_size, config.vocab_size, z_loss_weight, config.loss_chunk_rows)
        self.activation_checkpointing = config.activation_checkpointing

    @overload
    def forward(self, tokens_bt: Tensor, labels: None = None, documents: Documents | None = None) -> Tensor: ...

    @overload
    def forward(self, tokens_bt: Tensor, labels: Tensor, documents: Documents | None = None) -> LossSums: ...

    def forward(
        self, tokens_bt: Tensor, labels: Tensor | None = None, documents: Documents | None = None
    ) -> Tensor | LossSums:
        """Returns logits [B, T, V] of int64 tokens [B, T]; with labels [B, T] (shifted, -100 ignored), LossSums."""
        h_btd = self.embed_tokens(tokens_bt)
        for block in self.layers:
            if self.activation_checkpointing:
                h_btd = checkpoint(block, h_btd, documents, use_reentrant=False)
            else:
                h_btd = block(h_btd, documents)
        return self.lm_head(self.norm(h_btd), labels)

    def learned_positions(self) -> Iterator[tuple[int, Positions]]:
        """Yields (layer, from 0, module) of every layer that learns its positions, bottom first."""
        for layer, block in enumerate(self.layers):
            assert isinstance(block, Block)
            if block.positions.scheme.is_learned:
                yield layer, block.positions
