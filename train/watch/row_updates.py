"""Whether the rows of heads move as the optimizer moves them.

With w the row of a head after the update before, w' after this one, and e what AdamW's rule adds to w, given its
moments after this update:

    update_error   |w' - w - e| / (|w| + |e|)

It is 0 up to rounding (1e-7), whatever is trained and however noisy its gradient is: masters and moments are fp32. So a
row that training moves, however fast, is told from one that something else writes to, however slowly.

From one update to the next, this covers a whole turn of the training loop. Where w is not known, as in the first step
of a process or after an update that was not finite, w is the row before the update, and only the update is checked.
"""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from model.positions.module import Positions
from train.watch.head_rows import head_maps

if TYPE_CHECKING:
    from train.engine.engine import Engine


def rows_now(engine: "Engine") -> dict[int, Tensor]:
    """Returns copies of this rank's pieces of the rows of each layer."""
    maps = head_maps(dict(engine.model.learned_positions()))
    return {layer: engine.local_value(map_.get_parameter("weight")).clone() for layer, map_ in maps.items()}


class RowUpdates:
    """What one update changes of the rows, and what it should change."""

    def __init__(
        self, engine: "Engine", modules: Mapping[int, Positions], before: Mapping[int, Tensor] | None = None
    ) -> None:
        """Takes what `rows_now` returned after the update before, or reads the rows; to be called before the update."""
        self._engine = engine
        self._modules = modules
        self._rows = {layer: map_.get_parameter("weight") for layer, map_ in head_maps(modules).items()}
        self._before = rows_now(engine) if before is None else before
        self._num_before = {layer: engine.num_updates(rows) for layer, rows in self._rows.items()}

    def after_update(self) -> Tensor:
        """Returns [3, rows of all layers] float64: |w' - w - e|^2, |w|^2 and |e|^2; to be summed over ranks."""
        found = []
        for layer, parameter in self._rows.items():
            before = self._before[layer].double()
            change = self._engine.local_change(parameter, self._before[layer], self._num_before[layer])
            unexplained = self._engine.local_value(parameter).double() - before - change
            num_rows, width = self._shape(layer)
            start = self._engine.local_start(parameter)
            row_of = torch.arange(start, start + len(before), device=before.device) // width
            squares = torch.stack([unexplained, before, change]).square()
            found.append(squares.new_zeros(3, num_rows).index_add(1, row_of, squares))
        return torch.cat(found, dim=1) if found else torch.zeros(3, 0, dtype=torch.float64, device=self._engine.device)

    def by_layer(self, squares: Tensor) -> dict[int, list[float]]:
        """Returns the update error of each head by layer, of a tensor as `after_update` returns it.

        A layer whose scheme names no such map has none that are known (NaN).
        """
        found = {layer: [math.nan] * module.scheme.model.key_value_heads for layer, module in self._modules.items()}
        unexplained, before, change = squares.sqrt()
        error = torch.where(unexplained > 0, unexplained / (before + change), 0.0)
        first = 0
        for layer in self._rows:
            num_rows, _ = self._shape(layer)
            found[layer] = error[first : first + num_rows].tolist()
            first += num_rows
        return found

    def _shape(self, layer: int) -> tuple[int, int]:
        scheme = self._modules[layer].scheme
        num_rows, width = scheme.maps()[str(scheme.head_map)]
        return num_rows, width
