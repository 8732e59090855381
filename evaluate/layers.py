"""A forward pass, layer by layer: what each layer's attention is computed from, one layer in memory at a time."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from model.attention import attention
from model.transformer import Block, Olmo2

MAX_SCORES = 2**25  # of one chunk of queries: 128 MiB


@dataclass(frozen=True)
class LayerRead:
    """A layer, and the text [T] as it reads it."""

    layer: int
    block: Block
    positions: Tensor | None
    """[T], [1, T, H_kv] or None, as the layer's scheme gives them."""
    q_thd: Tensor
    """Normalised and rotated, like the keys."""
    k_thd: Tensor
    """[T, H_kv, D]."""


@torch.no_grad()
def read_layers(model: Olmo2, tokens_t: Tensor) -> Iterator[LayerRead]:
    """Yields each layer, bottom first, with its queries and keys; tokens are int64."""
    h_btd = model.embed_tokens(tokens_t[None])
    for layer, block in enumerate(model.layers):
        assert isinstance(block, Block)
        positions = block.positions(h_btd)
        q, k, v = block.attention.heads(h_btd, positions)
        yield LayerRead(layer, block, positions, q[0], k[0])
        out = attention(q, k, v, backend=block.attention.backend)
        h_btd = block.after_attention(h_btd, block.attention.o_proj(out.flatten(2)))


def rows_of_attention(read: LayerRead, first: int, last: int, max_scores: int = MAX_SCORES) -> Iterator[Tensor]:
    """Yields the attention of the queries from `first` up to `last`, in chunks [H, n, T], float32; rows sum to 1.

    They are the rows of `model.attention.attention_weights`, without the other rows. A chunk holds `max_scores` numbers
    at most, but one row at least.
    """
    q_thd, k_thd = read.q_thd, read.k_thd.float()
    num_tokens, num_kv, width = k_thd.shape
    num_rows = max(1, max_scores // (q_thd.shape[1] * num_tokens))
    index_t = torch.arange(num_tokens, device=k_thd.device)
    for start in range(first, last, num_rows):
        end = min(last, start + num_rows)
        q_nkgd = q_thd[start:end].float().unflatten(1, (num_kv, -1))
        scores = torch.einsum("nkgd,tkd->kgnt", q_nkgd, k_thd).flatten(0, 1) / math.sqrt(width)
        hidden_nt = index_t > index_t[start:end, None]
        yield scores.masked_fill_(hidden_nt, -torch.inf).softmax(-1)
