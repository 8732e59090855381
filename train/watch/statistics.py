"""The statistics of the positions of a step: which sequences count, and their sums.

The unit is a *sequence* of n tokens: a row of the batch, or, where documents are kept apart (`mask_documents`), a
document of at least 16 tokens, because tokens of different documents do not attend to each other. Each statistic is one
number per sequence and head, computed in float64 from z_1 ... z_n, the positions of its tokens (arXiv 2512.14391,
section 3). A reading is its mean over the sequences of the global batch, weighted by n. Such sums add up over
micro-batches and ranks, so a reading depends on neither. Rows that the repetition filter takes out of the loss have the
weight 0, unless `position_watch.filtered_rows` is set.

The statistics themselves are in model/position_statistics.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from model.attention import Documents
from model.loss import IGNORED
from model.position_statistics import CHUNK, head_values
from model.transfers import to_device
from report.metrics import STATISTICS

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
