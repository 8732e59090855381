"""Statistics of the positions of a sequence, each with its formula.

Each is one number per sequence and head, computed in float64 from z_1 ... z_n, the positions of its tokens (arXiv
2512.14391, section 3). The position watch takes them while a model trains, evaluations afterwards. With t the token's
index, d_t = z_{t+1} - z_t, r_t the rank of z_t in its sequence (ties share their mean rank), and w_i the model's rotary
frequencies in radians per position:

    mean, std, min, max      of z_t; std without Bessel's correction
    range                    max - min: the paper's d
    q01, q50, q99            quantiles of z_t, linear between neighbours
    negative_share           of tokens with z_t < 0
    step_mean, step_std      of d_t
    forward_share            of steps with d_t > 0
    rank_correlation         Pearson's of r_t and t, Spearman's of z_t and t: 1 is RoPE's order; 0 if z is constant
    constant_share           of 16-token chunks that lie within 0.2 of their own mean
    monotone_share           of the other chunks, those that only rise or only fall
    hybrid_share             the rest of the chunks (a last, shorter chunk is left out)
    resolution               number of frequencies i with w_i * range > 0.1 rad; 0: positions have no effect
    similarity               mean over the layer's other heads of |Pearson's correlation| with their z; 0 if constant
"""

import torch
from torch import Tensor

CHUNK = 16  # tokens of a chunk in the paper's patterns
CHUNK_EPS = 0.2  # positions that count as equal in the paper's patterns
RESOLVED_RADIANS = 0.1  # smaller differences of phase hardly change attention: the cosine is 0.995
QUANTILES = (("q01", 0.01), ("q50", 0.5), ("q99", 0.99))


def head_values(z_shl: Tensor, lengths_s: Tensor, radians_f: Tensor) -> dict[str, Tensor]:
    """Returns every statistic by name, [S, H], of float64 z [S, H, L]; the first `lengths_s` tokens of each count."""
    length = z_shl.shape[-1]
    t_l = torch.arange(length, dtype=torch.float64, device=z_shl.device)
    n_s1 = lengths_s[:, None]
    real_s1l = (t_l < n_s1)[:, None]
    mean = (z_shl * real_s1l).sum(-1) / n_s1
    centred_shl = (z_shl - mean[..., None]) * real_s1l
    padded_shl = z_shl.masked_fill(~real_s1l, torch.inf)
    lowest, highest = padded_shl.amin(-1), z_shl.masked_fill(~real_s1l, -torch.inf).amax(-1)
    spread = highest - lowest
    sorted_shl = padded_shl.sort(-1).values
    return {
        "mean": mean,
        "std": (centred_shl.square().sum(-1) / n_s1).sqrt(),
        "min": lowest,
        "max": highest,
        "range": spread,
        **{name: _quantile(sorted_shl, lengths_s, share) for name, share in QUANTILES},
        "negative_share": ((z_shl < 0) & real_s1l).sum(-1) / n_s1,
        **_steps(z_shl.diff(dim=-1), real_s1l[..., 1:], n_s1 - 1),
        "rank_correlation": _rank_correlation(z_shl, sorted_shl, real_s1l, n_s1, t_l),
        **patterns(z_shl, lengths_s),
        "resolution": (spread[..., None] * radians_f > RESOLVED_RADIANS).sum(-1).double(),
        "similarity": _similarity(centred_shl),
    }


def _quantile(sorted_shl: Tensor, lengths_s: Tensor, share: float) -> Tensor:
    index_s = share * (lengths_s - 1)
    below_s = index_s.floor()
    low, high = (
        sorted_shl.gather(-1, whole_s.long()[:, None, None].expand(-1, sorted_shl.shape[1], 1)).squeeze(-1)
        for whole_s in (below_s, below_s + 1)
    )
    return low + (high - low) * (index_s - below_s)[:, None]


def _steps(d_shl: Tensor, real_s1l: Tensor, num_s1: Tensor) -> dict[str, Tensor]:
    mean = (d_shl * real_s1l).sum(-1) / num_s1
    square = ((d_shl - mean[..., None]) * real_s1l).square().sum(-1) / num_s1
    return {
        "step_mean": mean,
        "step_std": square.sqrt(),
        "forward_share": ((d_shl > 0) & real_s1l).sum(-1) / num_s1,
    }


def _rank_correlation(z_shl: Tensor, sorted_shl: Tensor, real_s1l: Tensor, n_s1: Tensor, t_l: Tensor) -> Tensor:
    # The rank of a token, from 0, is the mean of how many lie below it and how many do not lie above it: ties share it.
    below, not_above = (torch.searchsorted(sorted_shl, z_shl, right=right) for right in (False, True))
    middle_s11 = ((n_s1 - 1) / 2)[..., None]
    rank_shl = ((below + not_above - 1) / 2 - middle_s11) * real_s1l
    t_s1l = (t_l - middle_s11) * real_s1l
    scale = (rank_shl.square().sum(-1) * t_s1l.square().sum(-1)).sqrt()
    return torch.where(scale > 0, (rank_shl * t_s1l).sum(-1) / scale, 0.0)


def patterns(z_shl: Tensor, lengths_s: Tensor, eps: float | Tensor = CHUNK_EPS) -> dict[str, Tensor]:
    """Returns the shares of the paper's patterns, [S, H]; `eps`, a number or [S, H], is how far equal ones may lie."""
    num_chunks = z_shl.shape[-1] // CHUNK
    chunks = z_shl[..., : num_chunks * CHUNK].unflatten(-1, (num_chunks, CHUNK))
    ends = torch.arange(1, num_chunks + 1, device=z_shl.device) * CHUNK
    whole_s1c = (ends <= lengths_s[:, None])[:, None]
    within = eps[..., None] if isinstance(eps, Tensor) else eps
    constant = (chunks - chunks.mean(-1, keepdim=True)).abs().amax(-1) <= within
    d = chunks.diff(dim=-1)
    monotone = ((d > 0).all(-1) | (d < 0).all(-1)) & ~constant
    kinds = {"constant_share": constant, "monotone_share": monotone, "hybrid_share": ~(constant | monotone)}
    return {name: (is_kind & whole_s1c).sum(-1) / whole_s1c.sum(-1).double() for name, is_kind in kinds.items()}


def _similarity(centred_shl: Tensor) -> Tensor:
    num_heads = centred_shl.shape[1]
    norm = centred_shl.square().sum(-1, keepdim=True).sqrt()
    unit_shl = torch.where(norm > 0, centred_shl / norm, 0.0)
    correlation_shh = (unit_shl @ unit_shl.mT).abs()
    itself = correlation_shh.diagonal(dim1=-2, dim2=-1)
    return (correlation_shh.sum(-1) - itself) / max(1, num_heads - 1)
