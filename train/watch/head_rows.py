"""The training signals of single heads: of their rows of the map whose output is the positions (RePo: W_z).

With v the row of a head, g its gradient, r the input of the map, and dz the gradient at the positions:

    head_norm        |v|, before the update
    head_grad_norm   |g|, of the global batch, before clipping
    gradient_error   |g - e| / max(|g|, |e|), where e = sum_t dz_t r_t: 0 if the gradient at the positions is what
                     arrives at the map, 1 if it is lost on the way, 2 if its sign changes

The error is rounding in a healthy run: 1e-7 in fp32, up to 1e-2 in bf16.
"""

import math
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from model.positions.module import Positions
from report.metrics import GRADIENT_ERROR, HEAD_GRADIENT, HEAD_NORM

if TYPE_CHECKING:
    from train.engine.engine import Engine


def head_maps(modules: Mapping[int, Positions]) -> dict[int, nn.Module]:
    """Returns the map of each layer whose outputs are the positions; layers whose scheme names none have no rows."""
    return {
        layer: module.get_submodule(module.scheme.head_map)
        for layer, module in modules.items()
        if module.scheme.head_map is not None
    }


class HeadRows:
    """The rows of the maps whose outputs are the positions, their gradients, and what the gradients should be."""

    def __init__(self, engine: "Engine", modules: Mapping[int, Positions]) -> None:
        self._engine = engine
        self._modules = modules
        self._maps = head_maps(modules)
        self._shapes = {
            layer: modules[layer].scheme.maps()[str(modules[layer].scheme.head_map)] for layer in self._maps
        }
        self._inputs: dict[int, Tensor] = {}
        self._expected: dict[int, Tensor] = {}
        self._rows = torch.zeros(0)

    def hooks(self) -> list[Any]:
        """Returns handles of hooks that keep the inputs of the maps."""
        return [map_.register_forward_pre_hook(partial(self._keep, layer)) for layer, map_ in self._maps.items()]

    def _keep(self, layer: int, module: nn.Module, inputs: tuple[Tensor]) -> None:
        if torch.is_grad_enabled():
            self._inputs[layer] = inputs[0].detach()

    def take_input(self, layer: int) -> Tensor | None:
        """Returns the input that made the positions of the forward pass, and forgets it."""
        return self._inputs.pop(layer, None)

    def add(self, layer: int, dz_bth: Tensor, x_btm: Tensor) -> None:
        """Adds what the gradient at the positions of a micro-batch makes of the gradient of the rows."""
        product = (dz_bth.detach().flatten(0, 1).to(x_btm.dtype).t() @ x_btm.flatten(0, 1)).double()
        self._expected[layer] = self._expected[layer] + product if layer in self._expected else product

    def read(self) -> None:
        """Reads the rows and their gradients, which must be complete; to be called before the update."""
        self._inputs = {}
        pieces = []
        for layer, map_ in self._maps.items():
            parameter = map_.get_parameter("weight")
            start = self._engine.local_start(parameter)
            num_rows, width = self._shapes[layer]
            for part in (self._engine.local_value(parameter), self._engine.local_gradient(parameter)):
                whole = torch.zeros(num_rows * width, dtype=torch.float64, device=part.device)
                whole[start : start + len(part)] = part.detach().double()
                pieces.append(whole)
            expected = self._expected.get(layer)
            pieces.append(torch.zeros_like(pieces[-1]) if expected is None else expected.flatten())
        self._expected = {}
        self._rows = torch.cat(pieces) if pieces else torch.zeros(0, dtype=torch.float64, device=self._engine.device)

    def values(self) -> Tensor:
        """Returns this rank's pieces of all rows, flat in float64; to be added over ranks."""
        return self._rows

    def by_layer(self, rows: Tensor, world_size: int) -> dict[int, dict[str, list[float]]]:
        """Returns the figures of each head by layer, of a tensor as `values` returns it, added over ranks.

        A layer whose scheme names no such map has none that are known (NaN).
        """
        found: dict[int, dict[str, list[float]]] = {}
        for layer, module in self._modules.items():
            unknown = [math.nan] * module.scheme.model.key_value_heads
            found[layer] = {HEAD_NORM: unknown, HEAD_GRADIENT: unknown, GRADIENT_ERROR: unknown}
        for layer in self._maps:
            num_rows, width = self._shapes[layer]
            values, rows = rows[: 3 * num_rows * width].view(3, num_rows, width), rows[3 * num_rows * width :]
            value, gradient, expected = values[0], values[1], values[2] / world_size  # an engine's gradient is a mean
            norm, size = gradient.norm(dim=1), expected.norm(dim=1)
            largest = torch.maximum(norm, size)
            error = torch.where(largest > 0, (gradient - expected).norm(dim=1) / largest, 0.0)
            found[layer] = {
                HEAD_NORM: value.norm(dim=1).tolist(),
                HEAD_GRADIENT: norm.tolist(),
                GRADIENT_ERROR: error.tolist(),
            }
        return found
