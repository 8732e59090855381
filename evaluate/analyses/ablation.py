"""How much the loss depends on the learned positions of the upper layers: they are replaced, without training.

From a layer on upward, every layer that learns positions gets instead

    index     0, 1, 2, ...: what RoPE would give
    constant  the same for all tokens: no rotation, as in NoPE

and the loss of the same texts is taken again. The weights have been trained with the learned positions, so this is how
much the model has come to rely on them, not how good a model without them would be.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from evaluate.analyses.texts import TextsConfig
from evaluate.subject import ModelSubject
from model.transformer import Block, Olmo2
from report.evaluation.ablation import REPLACEMENTS


def ablation_row(subject: ModelSubject, config: TextsConfig, length: int, index: int) -> dict[str, Any]:
    """Returns what is kept of a text: nats per token as it is, and with positions replaced from each layer on."""
    tokens = config.tokens(index, length, subject)
    layers = [layer for layer, _ in subject.model.learned_positions()]
    replaced: dict[str, dict[str, float]] = {by: {} for by in REPLACEMENTS}
    for by in REPLACEMENTS:
        for start in layers:
            with positions_replaced(subject.model, start, by):
                replaced[by][str(start)] = _nll(subject, tokens)
    return {"tokens": len(tokens), "nll": _nll(subject, tokens), "replaced": replaced}


@contextmanager
def positions_replaced(model: Olmo2, start: int, by: str) -> Iterator[None]:
    """Gives the layers from `start` up that learn positions the index or a constant while the block lasts."""
    blocks = [model.layers[layer] for layer, _ in model.learned_positions() if layer >= start]
    replaced = [block for block in blocks if isinstance(block, Block)]
    hooks = [block.positions.register_forward_hook(partial(_replacement, by)) for block in replaced]
    for block in replaced:
        block.attention.adds_index = False  # else YaRN would stretch the index that it adds, and not what takes it away
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for block in replaced:
            block.attention.adds_index = block.positions.scheme.adds_index


def _replacement(by: str, module: nn.Module, inputs: tuple[Tensor, ...], z_bth: Tensor) -> Tensor:
    """Returns positions of the shape of z."""
    del module, inputs
    index_1t1 = torch.arange(z_bth.shape[1], device=z_bth.device, dtype=z_bth.dtype)[None, :, None]
    return torch.zeros_like(z_bth) + {"index": 1, "constant": 0}[by] * index_1t1


def _nll(subject: ModelSubject, tokens: list[int]) -> float:
    return subject.nll(tokens[:1], tokens[1:]) / (len(tokens) - 1)
