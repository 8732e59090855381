"""Generating text with a model in training form: a look at what was trained. For serving, export it (docs/export.md).

Keys and values of earlier tokens are kept, keys rotated by their own positions, where each scheme gives a token its
position from that token alone (`PositionScheme.is_tokenwise`). Else the whole text is run again for each token.
"""

from collections.abc import Collection, Iterator
from itertools import islice, takewhile

import torch
import torch.nn.functional as F
from torch import Tensor

from model.attention import attention
from model.transformer import Block, Olmo2


class Cache:
    """The keys, rotated, and the values of the tokens so far, for each layer: [1, T, H_kv, D]."""

    def __init__(self, num_layers: int) -> None:
        self._kept: list[tuple[Tensor, Tensor] | None] = [None] * num_layers

    @property
    def num_tokens(self) -> int:
        """How many tokens are kept."""
        first = self._kept[0]
        return 0 if first is None else first[0].shape[1]

    def extend(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Adds those of new tokens; returns all of the layer."""
        kept = self._kept[layer]
        if kept is not None:
            keys, values = torch.cat((kept[0], keys), dim=1), torch.cat((kept[1], values), dim=1)
        self._kept[layer] = keys, values
        return keys, values


@torch.no_grad()  # not inference_mode: the model keeps tables from its first use, which training may need later
def next_tokens(model: Olmo2, tokens: Tensor, *, temperature: float, generator: torch.Generator) -> Iterator[int]:
    """Yields one token after the other, without end, after `tokens` ([T] int64, at least one).

    Temperature 0 takes the most likely one. `generator` is on the CPU.
    """
    schemes = [block.positions.scheme for block in model.layers if isinstance(block, Block)]
    cache = Cache(len(schemes)) if all(scheme.is_tokenwise for scheme in schemes) else None
    text_1t = new_1t = tokens[None]
    while True:
        logits = model(text_1t)[0, -1] if cache is None else _cached_logits(model, new_1t, cache)
        token = _choose(logits.float().cpu(), temperature, generator)
        yield token
        new_1t = tokens.new_tensor([[token]])
        text_1t = torch.cat((text_1t, new_1t), dim=1)


def most_likely(model: Olmo2, tokens: Tensor, max_new_tokens: int, eos_token_ids: Collection[int]) -> list[int]:
    """Returns the most likely tokens after `tokens` ([T] int64), one after the other, up to an EOS or so many."""
    following = next_tokens(model, tokens, temperature=0.0, generator=torch.Generator())
    return list(takewhile(lambda token: token not in eos_token_ids, islice(following, max_new_tokens)))


@torch.inference_mode()
def learned_positions(model: Olmo2, tokens: Tensor) -> dict[int, Tensor]:
    """Returns the positions [T, H_kv] of `tokens` ([T] int64) in each layer that learns them, on the CPU.

    Of a scheme with `adds_index` they are deviations from the index.
    """
    found: dict[int, Tensor] = {}
    hooks = [
        module.register_forward_hook(lambda _, inputs, z, layer=layer: found.update({layer: z[0].cpu()}))
        for layer, module in model.learned_positions()
    ]
    try:
        model(tokens[None])
    finally:
        for hook in hooks:
            hook.remove()
    return found


def _of_index(block: Block, h_btd: Tensor, start: int) -> Tensor | None:
    """Returns positions that follow from the index, of tokens behind `start` others."""
    of_all: Tensor | None = block.positions(h_btd[:, :1].expand(-1, start + h_btd.shape[1], -1))
    if of_all is None:
        return None
    return of_all[start:] if of_all.ndim == 1 else of_all[:, start:]


def _choose(logits_v: Tensor, temperature: float, generator: torch.Generator) -> int:
    if temperature == 0.0:
        return int(logits_v.argmax())
    return int(torch.multinomial((logits_v / temperature).softmax(-1), 1, generator=generator))


def _cached_logits(model: Olmo2, new_1t: Tensor, cache: Cache) -> Tensor:
    """Returns the logits [V] after the last of the new tokens, which are all tokens at first and one at a time then."""
    start, h_btd = cache.num_tokens, model.embed_tokens(new_1t)
    for layer, block in enumerate(model.layers):
        assert isinstance(block, Block)
        positions = block.positions(h_btd) if block.positions.scheme.is_learned else _of_index(block, h_btd, start)
        q, k, v = block.attention.heads(h_btd, positions, start)
        k, v = cache.extend(layer, k, v)
        if start == 0:
            out = attention(q, k, v, backend=block.attention.backend)
        else:
            q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
            out = F.scaled_dot_product_attention(q, k, v, enable_gqa=q.shape[1] != k.shape[1]).transpose(1, 2)
        h_btd = block.after_attention(h_btd, block.attention.o_proj(out.flatten(2)))
    logits: Tensor = model.lm_head(model.norm(h_btd[:, -1:]))
    return logits[0, -1]
