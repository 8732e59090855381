"""Where a layer's positions come from: the token's index (RoPE), nowhere (NoPE), or a learned map (RePo).

RePo (arXiv 2512.14391, section 3): each token is given one real-valued position per head, read from the residual stream

    z = W_z (silu(W_g h) * W_c h),    W_g, W_c: [m, d], W_z: [H_kv, m], m = d // 8, no bias

where h is the input of the block, before any norm. Causality is untouched: z only changes the rotation of q and k.
"""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.config import ModelConfig, PositionKind, PositionPrecision, PositionsConfig, map_width
from model.exact import ExactLinear


class LinearPositions(nn.Module):
    """RoPE: 0, 1, 2, ... for every row and head alike."""

    def forward(self, h_btd: Tensor) -> Tensor:
        """Returns [T] int64."""
        return torch.arange(h_btd.shape[1], device=h_btd.device)


class NoPositions(nn.Module):
    """NoPE: q and k are not rotated; order is known from the causal mask alone."""

    def forward(self, h_btd: Tensor) -> None:
        return None


class LearnedPositions(nn.Module):
    """RePo: positions chosen by the model, one per token and key-value head.

    With exact maps, everything after the first product stays float32: a bfloat16 inner product followed by a float32
    cast would keep 90% of the error of a chain that is bfloat16 throughout. Inexact maps are the published chain.
    """

    def __init__(self, hidden_size: int, width: int, num_kv_heads: int, exact: bool = True) -> None:
        super().__init__()
        linear: Callable[[int, int], nn.Linear] = ExactLinear if exact else partial(nn.Linear, bias=False)
        self.gate = linear(hidden_size, width)
        self.content = linear(hidden_size, width)
        self.final = linear(width, num_kv_heads)

    def forward(self, h_btd: Tensor) -> Tensor:
        """Returns z [B, T, H_kv] in float32, float64 from float64."""
        z: Tensor = self.final(F.silu(self.gate(h_btd)) * self.content(h_btd))
        return z.to(torch.promote_types(z.dtype, torch.float32))


def build_positions(kind: PositionKind, model: ModelConfig, positions: PositionsConfig) -> nn.Module:
    """The module that maps the input of one block, [B, T, d], to that layer's positions: [T], [B, T, H_kv] or None."""
    if kind is PositionKind.rope:
        return LinearPositions()
    if kind is PositionKind.nope:
        return NoPositions()
    return LearnedPositions(
        model.hidden_size,
        map_width(positions, model.hidden_size),
        model.key_value_heads,
        exact=positions.precision is PositionPrecision.float32,
    )
