"""The statistics of learned positions, each with its formula.

The unit is a *sequence* of n tokens: a row of the batch, or, where documents are kept apart (`mask_documents`), a
document of at least 16 tokens, because tokens of different documents do not attend to each other. Each statistic is one
number per sequence and head, computed in float64 from z_1 ... z_n, the positions of its tokens (arXiv 2512.14391,
section 3). A reading is its mean over the sequences of the global batch, weighted by n. Such sums add up over
micro-batches and ranks, so a reading depends on neither. Rows that the repetition filter takes out of the loss have the
weight 0, unless `position_watch.filtered_rows` is set.

With t the token's index, d_t = z_{t+1} - z_t, r_t the rank of z_t in its sequence (ties share their mean rank), and
w_i the model's rotary frequencies in radians per position:

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

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from model.attention import Documents
from model.loss import IGNORED
from model.transfers import to_device
from report.metrics import STATISTICS

CHUNK = 16  # tokens of a chunk in the paper's patterns
CHUNK_EPS = 0.2  # positions that count as equal in the paper's patterns
RESOLVED_RADIANS = 0.1  # smaller differences of phase hardly change attention: the cosine is 0.995
QUANTILES = (("q01", 0.01), ("q50", 0.5), ("q99", 0.99))
MAX_PADDING = 2  # times the tokens of a micro-batch: size of a group of documents, padded to the longest


@dataclass(frozen=True)
class Sequences:
    """S sequences of a micro-batch [B, T], each padded to the longest."""

    tokens_sl: Tensor | None
    """int64: index among the B * T tokens; None: the rows as they are."""
    lengths_s: Tensor
    """float64: tokens of each."""
    weights_s: Tensor
    """float64: the length, or 0 for sequences that do not count."""


def sequences_of(labels_bt: Tensor, documents: Documents | None, filtered_rows: bool) -> list[Sequences]:
    """Returns the sequences of a micro-batch in groups of similar length; nothing is read back from the device."""
    num_rows, length = labels_bt.shape
    counts_b = torch.ones_like(labels_bt[:, 0], dtype=torch.bool)
    if not filtered_rows:
        counts_b = (labels_bt != IGNORED).any(dim=1)
    if documents is None:
        lengths_s = torch.full_like(counts_b, length, dtype=torch.float64)
        return [Sequences(None, lengths_s, lengths_s * counts_b)] if length >= CHUNK else []
    groups = []
    for starts, lengths in _groups(documents.lengths, MAX_PADDING * num_rows * length):
        tokens = np.minimum(starts[:, None] + np.arange(lengths.max()), num_rows * length - 1)
        tokens_sl, rows_s, lengths_s = (
            to_device(values, labels_bt.device) for values in (tokens, starts // length, lengths.astype(np.float64))
        )
        groups.append(Sequences(tokens_sl, lengths_s, lengths_s * counts_b[rows_s]))
    return groups


def _groups(lengths: np.ndarray, budget: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Returns (starts, lengths) of documents of a chunk or more, longest first, of at most `budget` padded tokens."""
    starts = np.cumsum(lengths) - lengths
    order = np.argsort(-lengths, kind="stable")
    order = order[lengths[order] >= CHUNK]
    groups = []
    while len(order):
        size = max(1, budget // int(lengths[order[0]]))
        groups.append((starts[order[:size]], lengths[order[:size]]))
        order = order[size:]
    return groups


def weighted_sums(z_bth: Tensor, groups: Sequence[Sequences], radians_f: Tensor) -> Tensor:
    """Returns [len(STATISTICS) + 1, H] float64: each statistic times weight, summed over sequences; last, the weights.

    `radians_f`: the angle by which each rotary pair turns per position, float64.
    """
    z = z_bth.detach().double()
    sums = z.new_zeros(len(STATISTICS) + 1, z.shape[2])
    for group in groups:
        z_slh = z if group.tokens_sl is None else z.flatten(0, 1)[group.tokens_sl]
        values = head_values(z_slh.mT.contiguous(), group.lengths_s, radians_f)
        stacked = torch.stack([*(values[name] for name in STATISTICS), torch.ones_like(values["mean"])])
        sums += (stacked * group.weights_s[:, None]).sum(dim=1)
    return sums


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
        **_patterns(z_shl, lengths_s),
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


def _patterns(z_shl: Tensor, lengths_s: Tensor) -> dict[str, Tensor]:
    num_chunks = z_shl.shape[-1] // CHUNK
    chunks = z_shl[..., : num_chunks * CHUNK].unflatten(-1, (num_chunks, CHUNK))
    ends = torch.arange(1, num_chunks + 1, device=z_shl.device) * CHUNK
    whole_s1c = (ends <= lengths_s[:, None])[:, None]
    constant = (chunks - chunks.mean(-1, keepdim=True)).abs().amax(-1) <= CHUNK_EPS
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
