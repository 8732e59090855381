"""A text as one model reads it: the positions of every layer, and attention from one token.

Attention is computed one query at a time, [H, t + 1]: no T x T matrix, and none for layers that are not asked for. The
inputs of the layers are kept for that, bottom first, as far as a budget goes; what lies above is run again when it is
asked for.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from evaluate.layers import LayerRead, rows_of_attention
from model.transformer import Block, Olmo2

KEPT_BYTES = 2**30  # of layer inputs; 1B in float32 keeps 4,096 tokens in half of it


@dataclass(frozen=True)
class LayerPositions:
    """What a layer tells its tokens apart by."""

    scheme: str
    is_learned: bool
    adds_index: bool
    """Whether `z` are deviations from the index."""
    z: np.ndarray
    """float32 [rows, T]: a row per key-value head, one row where all heads share it, none without positions."""


def _nothing() -> None:
    """Does nothing."""


class Reading:
    """One model's run over a text ([T] int64, at least one token).

    `proceed` is called before each layer; what it raises ends the run.
    """

    def __init__(
        self,
        model: Olmo2,
        tokens: Tensor,
        *,
        proceed: Callable[[], None] = _nothing,
        kept_bytes: int = KEPT_BYTES,
    ) -> None:
        self.num_tokens = len(tokens)
        self.layers: list[LayerPositions] = []
        self._blocks = [block for block in model.layers if isinstance(block, Block)]
        self._kept: list[Tensor] = []
        self._proceed = proceed
        with torch.inference_mode():
            h_btd = model.embed_tokens(tokens[None])
            for layer, block in enumerate(self._blocks):
                proceed()
                if not self._kept or (len(self._kept) + 1) * h_btd.nbytes <= kept_bytes:
                    self._kept.append(h_btd)
                positions = block.positions(h_btd)
                self.layers.append(_described(block, positions, self.num_tokens))
                if layer + 1 < len(self._blocks):  # what the last layer returns is not asked for
                    h_btd = block.after_attention(h_btd, block.attention(h_btd, positions, None))

    @torch.inference_mode()
    def attention(self, layer: int, token: int) -> np.ndarray:
        """Returns the attention of every head of a layer from a token, float32 [H, token + 1]; rows sum to 1."""
        first = min(layer, len(self._kept) - 1)
        h_btd = self._kept[first][:, : token + 1]
        for block in self._blocks[first:layer]:
            self._proceed()
            h_btd = block(h_btd, None)
        block = self._blocks[layer]
        positions = block.positions(h_btd)
        q, k, _ = block.attention.heads(h_btd, positions)
        (row_h1t,) = rows_of_attention(LayerRead(layer, block, positions, q[0], k[0]), token, token + 1)
        return row_h1t[:, 0].cpu().numpy()


def _described(block: Block, positions: Tensor | None, length: int) -> LayerPositions:
    scheme = block.positions.scheme
    if positions is None:
        z = np.empty((0, length), np.float32)
    else:
        rows = positions[None] if positions.ndim == 1 else positions[0].T
        z = rows.float().cpu().contiguous().numpy()
    return LayerPositions(scheme.name, scheme.is_learned, scheme.adds_index, z)
