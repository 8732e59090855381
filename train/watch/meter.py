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

Every element of a parameter is held by exactly one rank (`Engine.local_value`), so each rank squares what it holds, and
only sums of squares are exchanged. The residual checks an invariant: only differences of positions enter attention, so
the same shift of all positions of a row changes nothing, and the gradients of a row add up to zero for every head. What
remains is rounding: 1e-8 to 3e-8 in fp32, up to 1e-2 in bf16. A larger value means that something other than a rotation
reads z, or a wrong kernel.
"""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from model.attention import Documents
from model.positions.module import Positions
from report.metrics import GRADIENT, GRADIENT_RESIDUAL, GRADIENT_SHARE, NORM, STATISTICS, UPDATE, map_signal
from train.watch.reading import Reading
from train.watch.statistics import Sequences, sequences_of, weighted_sums

if TYPE_CHECKING:
    from train.engine.engine import Engine


class Meter:
    """Takes one reading of `engine.model`, which has learned positions: create, `read_gradients`, `finish`."""

    def __init__(self, engine: "Engine", filtered_rows: bool) -> None:
        self._engine = engine
        self._filtered_rows = filtered_rows
        self._modules: dict[int, Positions] = dict(engine.model.learned_positions())
        self._groups: list[Sequences] | None = None  # of the micro-batch in the forward pass; None outside of one
        self._squares: MapSquares | None = None
        zero = torch.zeros((), dtype=torch.float64, device=engine.device)
        self._statistics = dict.fromkeys(self._modules, zero)  # broadcast to their shapes by the first sum
        self._residuals = dict.fromkeys(self._modules, zero.repeat(2))
        model = engine.model
        self._radians_f = model.frequencies.turns(engine.device) * (2 * math.pi)
        self._hooks = [
            model.register_forward_pre_hook(self._on_micro_batch),
            model.register_forward_hook(self._after_micro_batch),
            *(module.register_forward_hook(self._listener(layer)) for layer, module in self._modules.items()),
        ]

    def read_gradients(self) -> None:
        """Reads the gradients; to be called after the last backward pass, before the update."""
        for hook in self._hooks:
            hook.remove()
        self._squares = MapSquares(self._engine, self._modules)

    def finish(self, step: int, grad_norm: float, world_size: int) -> Reading | None:
        """Returns the reading, or None if no sequence of the batch counts; to be called after the update, on all ranks.

        `grad_norm`: of the whole model's gradient, before clipping.
        """
        assert self._squares is not None
        parts = [torch.stack(list(sums.values())) for sums in (self._statistics, self._residuals)]
        parts.append(self._squares.after_update())
        flat = torch.cat([part.flatten() for part in parts])
        if world_size > 1:
            dist.all_reduce(flat)
        pieces = flat.cpu().split([part.numel() for part in parts])
        statistics, residuals, squares = (piece.view_as(part) for piece, part in zip(pieces, parts, strict=True))
        if not statistics[0, -1].any():
            return None
        means = (statistics[:, :-1] / statistics[:, -1:]).tolist()
        of_maps = self._squares.by_layer(squares)
        return Reading(
            step,
            {layer: dict(zip(STATISTICS, means[i], strict=True)) for i, layer in enumerate(self._modules)},
            {
                layer: signal_values(of_maps[layer], residuals[i].tolist(), grad_norm)
                for i, layer in enumerate(self._modules)
            },
            {layer: dict(module.scheme.symbols) for layer, module in self._modules.items()},
        )

    def _on_micro_batch(self, model: nn.Module, inputs: tuple[Tensor, Tensor, Documents | None]) -> None:
        if not torch.is_grad_enabled():  # an evaluation, or a probe: only what is trained on counts
            return
        _, labels_bt, documents = inputs
        self._groups = sequences_of(labels_bt, documents, self._filtered_rows)

    def _after_micro_batch(self, model: nn.Module, inputs: Any, output: Any) -> None:
        self._groups = None  # what is recomputed in the backward pass is already counted

    def _listener(self, layer: int) -> Any:
        def on_gradient(dz_bth: Tensor) -> None:
            self._residuals[layer] = self._residuals[layer] + residual_sums(dz_bth)

        def listen(module: nn.Module, inputs: Any, z_bth: Tensor) -> None:
            if self._groups is None:
                return
            self._statistics[layer] = self._statistics[layer] + weighted_sums(z_bth, self._groups, self._radians_f)
            if z_bth.requires_grad:
                z_bth.register_hook(on_gradient)

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
