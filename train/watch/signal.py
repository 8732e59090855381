"""How training acts on RePo's maps: W_g (gate), W_c (content) and W_z (final) of each layer.

Every element of a parameter lies with exactly one rank (`Engine.local_value`), so each rank squares what it holds and
nothing is gathered but sums of squares:

    MAP_norm           |w|, before the update
    MAP_grad_norm      |g|, of the whole batch's gradient, before clipping
    MAP_update_ratio   |w' - w| / |w|, with w' what the optimizer made of w
    gradient_share     norm of the three maps' gradients together, over that of the whole model's gradient
    gradient_residual  sum |sum_t dz_t| / sum |dz_t|, over rows, heads and (below) tokens, dz the loss's gradient at z

The last checks an invariant: only differences of positions enter attention, so moving all positions of a row alike
changes nothing, and the gradients of a row add up to zero for every head. What remains is rounding: 1e-8 to 3e-8 in
fp32, up to 1e-2 in bf16. A larger value means that something other than a rotation reads z, or a wrong kernel.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from model.positions.module import Positions
from train.watch.names import MAPS, SIGNALS

if TYPE_CHECKING:
    from train.engine.engine import Engine


class MapSquares:
    """Squared norms of this rank's pieces of the maps, their gradients, and what one update changed."""

    def __init__(self, engine: "Engine", modules: list[Positions]) -> None:
        """Call it when the gradients are whole, before the update."""
        self._engine = engine
        self._maps = [getattr(module, name).weight for module in modules for name in MAPS]
        self._before = [engine.local_value(parameter).clone() for parameter in self._maps]
        self._gradients = [_square(engine.local_gradient(parameter)) for parameter in self._maps]

    def after_update(self) -> Tensor:
        """[layers, 9] float64: |w|^2, then |g|^2, then |w' - w|^2 of the three maps; to be summed over ranks."""
        values = [_square(before) for before in self._before]
        changes = [
            _square(self._engine.local_value(parameter) - before)
            for parameter, before in zip(self._maps, self._before, strict=True)
        ]
        return torch.stack([*values, *self._gradients, *changes]).view(3, -1, len(MAPS)).transpose(0, 1).flatten(1)


def _square(piece: Tensor) -> Tensor:
    return piece.detach().double().square().sum()


def residual_sums(dz_bth: Tensor) -> Tensor:
    """[2] float64: sum over rows and heads of |sum_t dz|, and of sum_t |dz|."""
    dz = dz_bth.detach().double()
    return torch.stack([dz.sum(dim=1).abs().sum(), dz.abs().sum()])


def signal_values(squares: list[float], residual: list[float], grad_norm: float) -> dict[str, float]:
    """The figures of one layer from sums over all ranks, its 9 `MapSquares` and 2 `residual_sums`, and the norm of the
    whole model's gradient.
    """
    norms = [square**0.5 for square in squares]
    weights, gradients, changes = norms[:3], norms[3:6], norms[6:]
    ratios = [_ratio(change, weight) for change, weight in zip(changes, weights, strict=True)]
    share = _ratio(sum(squares[3:6]) ** 0.5, grad_norm)
    return dict(zip(SIGNALS, [*weights, *gradients, *ratios, share, _ratio(*residual)], strict=True))


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
