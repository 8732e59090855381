"""Checks the positions of one row and their gradient by running the row again, without a gradient.

Two things are measured of each layer, both independent of the code that made the positions and their gradient:

    position_error   |z' - z| / |z - mean z|, over the first half of the row; z': the positions of the same row with
                     other tokens in its second half
    gradient_slope   (L(z + u) - L(z - u)) / (2 sum u dz), where u = STEP * sign(dz), and L is the loss of the row

A token's position depends on itself and earlier tokens only, so the error is 0 up to rounding; positions in a wrong
order, or of other tokens, give 1 or more. The slope is 1 if dz is the gradient of the loss, -1 if its sign is wrong,
and 0 if it has nothing to do with the loss. It is not known (NaN) where the change of the loss is within rounding.

The row is the first of a micro-batch. While the positions are compared, every layer is given those that the first half
had in training, so that the error of a layer is its own.
"""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from model.attention import Documents
from model.loss import LossSums
from model.positions.module import Positions
from train.engine.config import Precision

if TYPE_CHECKING:
    from train.engine.engine import Engine

STEP = 0.05  # positions by which each token moves: the fastest frequency, one radian per position, turns 0.05 rad
SMALL = 0.02  # of |z|: the least that differences of positions are compared with, since bf16 rounds to 0.004
ROUNDING = {Precision.fp32: 2.0**-20, Precision.bf16: 2.0**-7}  # of the cross entropy of one token, relative
CERTAIN = 8.0  # times the rounding of a row's loss that its change must exceed


class RowCheck:
    """The first row of a micro-batch: keep what training made of it, then `run`."""

    def __init__(self, tokens_bt: Tensor, labels_bt: Tensor, documents: Documents | None) -> None:
        """Takes the micro-batch of a forward pass."""
        self._tokens_1t, self._labels_1t = tokens_bt[:1], labels_bt[:1]
        self._num_rows = len(tokens_bt)
        self._boundaries = None if documents is None else _first_row(documents, tokens_bt.shape[1])
        self._z: dict[int, Tensor] = {}
        self._dz: dict[int, Tensor] = {}
        self._scale = torch.ones((), device=tokens_bt.device)

    def keep_loss(self, total: Tensor) -> None:
        """Listens for the factor between the loss sum of the micro-batch and what is differentiated."""

        def on_scale(scale: Tensor) -> None:
            self._scale = scale.detach()

        if total.requires_grad:
            total.register_hook(on_scale)

    def keep_positions(self, layer: int, z_bth: Tensor) -> None:
        """Keeps the row's positions."""
        self._z[layer] = z_bth[:1].detach()

    def keep_gradient(self, layer: int, dz_bth: Tensor) -> None:
        """Keeps the gradient at the row's positions."""
        self._dz[layer] = dz_bth[:1].detach()

    def run(self, engine: "Engine", modules: Mapping[int, Positions]) -> Tensor:
        """Returns [layers, 5] float64, what `check_values` takes; all ranks call it.

        Every variant of the row is a row of a batch: first the one with other tokens, then z + u and z - u of each
        layer. They run together, at most twice as many at a time as training has: without a gradient that needs less
        memory.
        """
        half = self._tokens_1t.shape[1] // 2
        other_1t = self._tokens_1t.clone()
        other_1t[:, half:] = self._tokens_1t.roll(half // 2 + 1, 1)[:, half:]
        tokens_vt = torch.cat([other_1t, self._tokens_1t.expand(2 * len(modules), -1)])
        gradients = {layer: self._dz.get(layer, torch.zeros_like(z)) / self._scale for layer, z in self._z.items()}
        steps = {layer: STEP * dz.sign() for layer, dz in gradients.items()}
        seen: dict[int, Tensor] = {}
        losses: list[Tensor] = []
        for rows in torch.arange(len(tokens_vt)).split(2 * self._num_rows):
            variants = {int(variant): row for row, variant in enumerate(rows)}
            with _hooked(
                {
                    layer: (module, self._changed(layer, 2 * number + 1, variants, steps[layer], seen))
                    for number, (layer, module) in enumerate(modules.items())
                }
            ):
                losses.append(self._losses(engine, tokens_vt[rows.to(tokens_vt.device)]))
        losses_vt = torch.cat(losses)
        sums = []
        for number, layer in enumerate(modules):
            z = self._z[layer][:, :half].double()
            centred = z - z.mean(dim=1, keepdim=True)
            error = (seen[layer] - z).square().sum()
            size = centred.square().sum() + SMALL**2 * z.square().sum()
            up, down = losses_vt[2 * number + 1 : 2 * number + 3]
            expected = 2 * (steps[layer].double() * gradients[layer].double()).sum()
            noise = ROUNDING[engine.precision] * up.square().sum().sqrt()
            sums.append(torch.stack([error, size, (up - down).sum(), expected, noise.square()]))
        return torch.stack(sums)

    def _changed(self, layer: int, up: int, variants: Mapping[int, int], u_1th: Tensor, seen: dict[int, Tensor]) -> Any:
        """Returns the hook of a layer for the rows of some variants: what they change at its positions."""

        def change(module: Any, inputs: Any, z_rth: Tensor) -> Tensor:
            z_rth = z_rth.clone()
            if 0 in variants:
                half = z_rth.shape[1] // 2
                row = variants[0]
                seen[layer] = z_rth[row : row + 1, :half].double()
                z_rth[row, :half] = self._z[layer][0, :half]
            for variant, sign in ((up, 1), (up + 1, -1)):
                if variant in variants:
                    z_rth[variants[variant]] += sign * u_1th[0]
            return z_rth

        return change

    def _losses(self, engine: "Engine", tokens_rt: Tensor) -> Tensor:
        """Returns what each label adds to the loss, float64 [R, T], without the z-loss."""
        from train.engine.engine import MicroBatch

        labels_rt = self._labels_1t.expand(len(tokens_rt), -1)
        documents = None
        if self._boundaries is not None:
            documents = Documents.from_boundaries([self._boundaries] * len(tokens_rt), tokens_rt.device)
        sums: LossSums = engine.evaluate(MicroBatch(tokens_rt, labels_rt, documents))
        assert sums.ce_bt is not None
        return sums.ce_bt.double()


def check_values(sums: list[float]) -> tuple[float, float]:
    """Returns a layer's position_error and gradient_slope, from its part of what `RowCheck.run` returned."""
    error, size, change, expected, noise = sums
    is_known = expected > CERTAIN * math.sqrt(noise)
    return (math.sqrt(error / size) if size else 0.0), (change / expected if is_known else math.nan)


def _first_row(documents: Documents, length: int) -> np.ndarray:
    """Returns the boundaries of the first row's documents."""
    ends = np.cumsum(documents.lengths)
    return np.concatenate([[0], ends[ends <= length]])


@contextmanager
def _hooked(hooks: Mapping[int, tuple[Positions, Any]]) -> Iterator[None]:
    handles = [module.register_forward_hook(hook) for module, hook in hooks.values()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
