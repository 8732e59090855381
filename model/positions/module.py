"""The torch module of any position scheme: it owns the parameters of the scheme's maps."""

from collections.abc import Callable
from functools import partial

from torch import Tensor, nn

from model.config import PositionPrecision
from model.exact import ExactLinear
from model.positions.base import PositionScheme


class Positions(nn.Module):
    """The positions of one layer: a submodule per linear map of `scheme`, named like the map."""

    def __init__(self, scheme: PositionScheme) -> None:
        super().__init__()
        self.scheme = scheme
        is_exact = scheme.config.precision is PositionPrecision.float32
        linear: Callable[[int, int], nn.Linear] = ExactLinear if is_exact else partial(nn.Linear, bias=False)
        for name, (num_outputs, num_inputs) in scheme.maps().items():
            self.add_module(name, linear(num_inputs, num_outputs))

    def forward(self, h_btd: Tensor) -> Tensor | None:
        """Returns positions [T] or [B, T, H_kv], or None for no rotation, from the input of a block.

        Learned positions are always [B, T, H_kv], as what reads them expects.
        """
        positions = self.scheme.positions(h_btd, dict(self.named_children()))
        if self.scheme.is_learned and positions is not None and positions.ndim == 1:
            shape = (*h_btd.shape[:2], self.scheme.model.key_value_heads)
            positions = positions[None, :, None].expand(shape)
        return positions
