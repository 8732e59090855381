"""Takes a reading of one step: statistics of the positions, and how training acts on the maps that make them.

Hooks in the forward and backward passes add up the statistics; around the update, the maps are compared. All sums stay
on the device in one flat float64 vector, which is summed over ranks and read by the host once, after the update, when
the host waits for the device anyway.

The training signals of a layer, with w a map, g its gradient and w' the map after the update:

    MAP_norm           |w|, before the update
    MAP_grad_norm      |g|, of the global batch, before clipping
    MAP_update_ratio   |w' - w| / |w|
    gradient_share     norm of the gradients of all maps of the layer, over that of the whole model's gradient
    gradient_residual  sum |sum_t dz_t| / sum |dz_t|, over rows, heads and (below) tokens; dz: the gradient at z
    gradient_slope     whether dz is the gradient of the loss (row_check.py)
    position_error     whether z belongs to its token (row_check.py)
    head_norm ...      of the rows of the last map, per head (head_rows.py)
    update_error       of the same: whether an update is that of the optimizer (row_updates.py)

Every element of a parameter is held by exactly one rank (`Engine.local_value`), so each rank squares what it holds, and
only sums of squares are exchanged. The residual checks an invariant: only differences of positions enter attention, so
the same shift of all positions of a row changes nothing, and the gradients of a row add up to zero for every head. What
remains is rounding: 1e-8 to 3e-8 in fp32, up to 1e-2 in bf16. A larger value means that something other than a rotation
reads z, or a wrong kernel.
"""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from model.attention import Documents
from model.positions.module import Positions
from report.metrics import (
    GRADIENT,
    GRADIENT_RESIDUAL,
    GRADIENT_SHARE,
    GRADIENT_SLOPE,
    NORM,
    POSITION_ERROR,
    STATISTICS,
    UPDATE,
    UPDATE_ERROR,
    map_signal,
)
from train.watch.head_rows import HeadRows
from train.watch.reading import Reading
from train.watch.row_check import RowCheck, check_values
from train.watch.row_updates import RowUpdates
from train.watch.statistics import Sequences, sequences_of, weighted_sums

if TYPE_CHECKING:
    from train.engine.engine import Engine


class Meter:
    """Takes one reading of `engine.model`, which has learned positions: create, `read_gradients`, `finish`."""

    def __init__(self, engine: "Engine", filtered_rows: bool, rows: Mapping[int, Tensor] | None = None) -> None:
        """Takes what `rows_now` (row_updates.py) returned after the update before; None: not known."""
        self._engine = engine
        self._filtered_rows = filtered_rows
        self._modules: dict[int, Positions] = dict(engine.model.learned_positions())
        self._groups: list[Sequences] | None = None  # of the micro-batch in the forward pass; None outside of one
        self._squares: MapSquares | None = None
        self._rows_before = rows
        self._updates: RowUpdates | None = None
        zero = torch.zeros((), dtype=torch.float64, device=engine.device)
        self._statistics = dict.fromkeys(self._modules, zero)  # broadcast to their shapes by the first sum
        self._residuals = dict.fromkeys(self._modules, zero.repeat(2))
        self._loss = zero.repeat(2)  # sum of the cross entropy, and valid labels
        self._rows = HeadRows(engine, self._modules)
        self._check: RowCheck | None = None  # of the first micro-batch
        self._is_first = False  # whether the micro-batch in the forward pass is the first
        self._checked = zero
        model = engine.model
        turns, of_deviations = model.frequencies.turns(engine.device), model.frequencies.deviation_turns(engine.device)
        self._deviations = tuple(layer for layer, module in self._modules.items() if module.scheme.adds_index)
        self._radians_f = {
            layer: (of_deviations if layer in self._deviations else turns) * (2 * math.pi) for layer in self._modules
        }
        self._hooks = [
            model.register_forward_pre_hook(self._on_micro_batch),
            model.register_forward_hook(self._after_micro_batch),
            *(module.register_forward_hook(self._listener(layer)) for layer, module in self._modules.items()),
            *self._rows.hooks(),
        ]

    def read_gradients(self) -> None:
        """Reads the gradients and checks a row; to be called after the last backward pass, before the update.

        All ranks call it.
        """
        for hook in self._hooks:
            hook.remove()
        self._squares = MapSquares(self._engine, self._modules)
        self._updates = RowUpdates(self._engine, self._modules, self._rows_before)
        self._rows.read()
        assert self._check is not None
        checked = self._check.run(self._engine, self._modules)
        is_main = not dist.is_initialized() or dist.get_rank() == 0
        self._checked = checked if is_main else torch.zeros_like(checked)  # so that ranks do not change a reading
        self._check = None

    def finish(self, step: int, grad_norm: float, world_size: int) -> Reading | None:
        """Returns the reading, or None if no sequence of the batch counts; to be called after the update, on all ranks.

        `grad_norm`: of the whole model's gradient, before clipping.
        """
        assert self._squares is not None and self._updates is not None
        parts = [torch.stack(list(sums.values())) for sums in (self._statistics, self._residuals)]
        parts += [self._squares.after_update(), self._checked, self._loss]
        parts += [self._rows.values(), self._updates.after_update()]
        flat = torch.cat([part.flatten() for part in parts])
        if world_size > 1:
            dist.all_reduce(flat)
        pieces = flat.cpu().split([part.numel() for part in parts])
        statistics, residuals, squares, checked, loss, rows, updates = (
            piece.view_as(part) for piece, part in zip(pieces, parts, strict=True)
        )
        if not statistics[0, -1].any():
            return None
        means = (statistics[:, :-1] / statistics[:, -1:]).tolist()
        of_maps, of_rows = self._squares.by_layer(squares), self._rows.by_layer(rows, world_size)
        errors = self._updates.by_layer(updates)
        heads, signals = {}, {}
        for i, layer in enumerate(self._modules):
            error, slope = check_values(checked[i].tolist())
            heads[layer] = dict(zip(STATISTICS, means[i], strict=True)) | of_rows[layer]
            heads[layer][UPDATE_ERROR] = errors[layer]
            signals[layer] = signal_values(of_maps[layer], residuals[i].tolist(), grad_norm)
            signals[layer] |= {GRADIENT_SLOPE: slope, POSITION_ERROR: error}
        symbols = {layer: dict(module.scheme.symbols) for layer, module in self._modules.items()}
        return Reading(step, heads, signals, symbols, _ratio(*loss.tolist()), self._deviations)

    def _on_micro_batch(self, model: nn.Module, inputs: tuple[Tensor, Tensor, Documents | None]) -> None:
        if not torch.is_grad_enabled():  # an evaluation, or a probe: only what is trained on counts
            return
        tokens_bt, labels_bt, documents = inputs
        self._groups = sequences_of(labels_bt, documents, self._filtered_rows)
        self._is_first = self._check is None
        if self._check is None:
            self._check = RowCheck(tokens_bt, labels_bt, documents)

    def _after_micro_batch(self, model: nn.Module, inputs: Any, output: Any) -> None:
        if self._groups is None:
            return
        self._groups = None  # what is recomputed in the backward pass is already counted
        self._loss = self._loss + torch.stack([output.ce.detach().double(), output.num_valid.double()])
        if self._is_first and self._check is not None:
            self._check.keep_loss(output.total)

    def _listener(self, layer: int) -> Any:
        def on_gradient(dz_bth: Tensor, x_btm: Tensor | None, check: RowCheck | None) -> None:
            self._residuals[layer] = self._residuals[layer] + residual_sums(dz_bth)
            if x_btm is not None:
                self._rows.add(layer, dz_bth, x_btm)
            if check is not None:
                check.keep_gradient(layer, dz_bth)

        def listen(module: nn.Module, inputs: Any, z_bth: Tensor) -> None:
            if self._groups is None:
                return
            sums = weighted_sums(z_bth, self._groups, self._radians_f[layer])
            self._statistics[layer] = self._statistics[layer] + sums
            check = self._check if self._is_first else None
            if check is not None:
                check.keep_positions(layer, z_bth)
            if z_bth.requires_grad:
                z_bth.register_hook(partial(on_gradient, x_btm=self._rows.take_input(layer), check=check))

        return listen


class MapSquares:
    """Squared norms of this rank's pieces of all maps, their gradients, and what one update changed."""

    def __init__(self, engine: "Engine", modules: Mapping[int, Positions]) -> None:
        """Reads the maps and their gradients, which must be complete; to be called before the update."""
        self._engine = engine
        self._keys = [(layer, name) for layer, module in modules.items() for name in module.scheme.symbols]
        self._maps = [modules[layer].get_parameter(f"{name}.weight") for layer, name in self._keys]
        self._before = [engine.local_value(parameter).clone() for parameter in self._maps]
        self._gradients = [_square(engine.local_gradient(parameter)) for parameter in self._maps]

    def after_update(self) -> Tensor:
        """Returns [3, maps of all layers] float64: |w|^2, |g|^2 and |w' - w|^2; to be summed over ranks."""
        values = [_square(before) for before in self._before]
        changes = [
            _square(self._engine.local_value(parameter) - before)
            for parameter, before in zip(self._maps, self._before, strict=True)
        ]
        return torch.stack([*values, *self._gradients, *changes]).view(3, len(self._maps))

    def by_layer(self, squares: Tensor) -> dict[int, dict[str, Sequence[float]]]:
        """Returns the three sums by layer and map, of a tensor as `after_update` returns it."""
        found: dict[int, dict[str, Sequence[float]]] = {}
        for (layer, name), of_map in zip(self._keys, squares.T.tolist(), strict=True):
            found.setdefault(layer, {})[name] = of_map
        return found


def _square(piece: Tensor) -> Tensor:
    return piece.detach().double().square().sum()


def residual_sums(dz_bth: Tensor) -> Tensor:
    """Returns [2] float64: sum over rows and heads of |sum_t dz|, and of sum_t |dz|."""
    dz = dz_bth.detach().double()
    return torch.stack([dz.sum(dim=1).abs().sum(), dz.abs().sum()])


def signal_values(
    squares: Mapping[str, Sequence[float]], residual: Sequence[float], grad_norm: float
) -> dict[str, float]:
    """Returns the training signals of one layer by their own name, from sums over all ranks.

    `squares`: |w|^2, |g|^2 and |w' - w|^2 of each map; `residual`: of `residual_sums`; `grad_norm`: of the whole model.
    """
    norms = {name: [square**0.5 for square in of_map] for name, of_map in squares.items()}
    return {
        **{map_signal(name, NORM): norm for name, (norm, _, _) in norms.items()},
        **{map_signal(name, GRADIENT): gradient for name, (_, gradient, _) in norms.items()},
        **{map_signal(name, UPDATE): _ratio(change, norm) for name, (norm, _, change) in norms.items()},
        GRADIENT_SHARE: _ratio(sum(gradient for _, gradient, _ in squares.values()) ** 0.5, grad_norm),
        GRADIENT_RESIDUAL: _ratio(residual[0], residual[1]),
    }


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
