"""The formulas once more, from the papers, in float64 and with nothing but autograd: the reference of `model/`."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def repo_positions(h_btd: Tensor, gate: Tensor, content: Tensor, final: Tensor) -> Tensor:
    """z [B, T, H_kv] of RePo, arXiv 2512.14391, section 3."""
    h, gate, content, final = (x.double() for x in (h_btd, gate, content, final))
    return (F.silu(h @ gate.T) * (h @ content.T)) @ final.T


def rotated(x_bthd: Tensor, z_bth: Tensor, theta: float, frequencies: Tensor | None = None) -> Tensor:
    """Each pair (i, i + D/2) of x as a complex number, times exp(i z w_i)."""
    x = x_bthd.double()
    half = x.shape[-1] // 2
    if frequencies is None:
        frequencies = theta ** -(torch.arange(half, dtype=torch.float64, device=x.device) / half)
    pairs = torch.complex(x[..., :half], x[..., half:])
    angle = z_bth.double()[..., None] * frequencies
    pairs = pairs * torch.polar(torch.ones_like(angle), angle)
    return torch.cat((pairs.real, pairs.imag), dim=-1)


def causal_attention(q_bthd: Tensor, k_bthd: Tensor, v_bthd: Tensor) -> Tensor:
    """Row by row, one query at a time."""
    q, k, v = (x.double().transpose(1, 2) for x in (q_bthd, k_bthd, v_bthd))
    k, v = (x.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for x in (k, v))
    rows = []
    for t in range(q.shape[2]):
        scores = (k[:, :, : t + 1] @ q[:, :, t, :, None]).squeeze(-1) / math.sqrt(q.shape[-1])
        rows.append((scores.softmax(-1).unsqueeze(-1) * v[:, :, : t + 1]).sum(2))
    return torch.stack(rows, dim=1)
