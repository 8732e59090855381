"""Takes a reading: hooks during the forward and backward passes, pieces of parameters around the update, one sum.

Everything adds up on the device into one flat float64 vector, which is summed over ranks and read by the host once,
after the update, when the host has waited for the device anyway.
"""

import math
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from model.attention import Documents
from train.watch.names import STATISTICS
from train.watch.reading import Reading
from train.watch.signal import MapSquares, residual_sums, signal_values
from train.watch.statistics import Sequences, sequences_of, weighted_sums

if TYPE_CHECKING:
    from train.engine.engine import Engine


class Meter:
    """For one reading of `engine.model`, which has learned positions: `begin`, `gradients_are_there`, `finish`."""

    def __init__(self, engine: "Engine", filtered_rows: bool) -> None:
        self._engine = engine
        self._filtered_rows = filtered_rows
        self._modules = dict(engine.model.learned_positions())
        self._groups: list[Sequences] | None = None  # of the micro-batch that the model is reading, if it is
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

    def gradients_are_there(self) -> None:
        """Call it after the last backward pass, before the update."""
        for hook in self._hooks:
            hook.remove()
        self._squares = MapSquares(self._engine, list(self._modules.values()))

    def finish(self, step: int, grad_norm: float, world_size: int) -> Reading | None:
        """Call it after the update, on all ranks; None if no sequence of the batch counts.

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
        return Reading(
            step,
            {layer: dict(zip(STATISTICS, means[i], strict=True)) for i, layer in enumerate(self._modules)},
            {
                layer: signal_values(squares[i].tolist(), residuals[i].tolist(), grad_norm)
                for i, layer in enumerate(self._modules)
            },
        )

    def _on_micro_batch(self, model: nn.Module, inputs: tuple[Tensor, Tensor, Documents | None]) -> None:
        if not torch.is_grad_enabled():  # an evaluation, or a probe: only what is trained on counts
            return
        _, labels_bt, documents = inputs
        self._groups = sequences_of(labels_bt, documents, self._filtered_rows)

    def _after_micro_batch(self, model: nn.Module, inputs: Any, output: Any) -> None:
        self._groups = None  # what is recomputed in the backward pass has been counted

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
