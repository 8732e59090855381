"""Checks the positions of one row and their gradient by running the row again, without a gradient.

Two things are measured of each layer, both independent of the code that made the positions and their gradient:

    position_error   |z' - z| / |z - mean z|, over the first half of the row; z': the positions of the same row with
                     other tokens in its second half
    gradient_slope   (L(z + u) - L(z - u)) / (2 sum u dz), where u = step * sign(dz), and L is the loss of the row

A token's position depends on itself and earlier tokens only, so the error is 0 up to rounding; positions in a wrong
order, or of other tokens, give 1 or more. The slope is 1 if dz is the gradient of the loss, -1 if its sign is wrong,
and 0 if it has nothing to do with the loss. It is not known (NaN) where rounding, or a
loss that bends within the step, could be why it is not 1.

How uncertain a change is shows in L(z + u) + L(z - u) - 2 L(z), token by token, of which a smooth loss leaves next to
nothing. Where positions are so wide that the loss bends within a step, a slope says nothing of the gradient. In bf16
the change is 20 to 60 times less uncertain than the loss, since most of the rounding is the same in all three runs.
There the step is five times larger, which changes the slope of a right gradient to 0.97.

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

STEPS = {Precision.fp32: 0.05, Precision.bf16: 0.25}  # positions by which each token moves: radians of the fastest turn
SMALL = 0.02  # of |z|: the least that differences of positions are compared with, since bf16 rounds to 0.004
ROUNDING = {Precision.fp32: 2.0**-20, Precision.bf16: 2.0**-7}  # of the cross entropy of one token, relative
LEAST_NOISE = {Precision.fp32: 1.0, Precision.bf16: 1 / 32}  # of that rounding: the least noise of a change
SAFETY = 3.0  # times what is seen: tokens share some of it, so that it is larger in their sum
CERTAIN = 8.0  # times the noise by which a change must differ from none, or a slope from one
TOLERANCE = 0.2  # of a slope, besides the noise


class RowCheck:
    """The first row of a micro-batch: keep what training made of it, then `run`."""

    def __init__(self, tokens_bt: Tensor, labels_bt: Tensor, documents: Documents | None) -> None:
        """Takes the micro-batch of a forward pass."""
        self._tokens_1t, self._labels_1t = tokens_bt[:1], labels_bt[:1]
        self._documents = None if documents is None else _first_row(documents, tokens_bt.shape[1], tokens_bt.device)
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
        """Returns [layers, 5] float64, what `check_values` takes; all ranks call it."""
        half = self._tokens_1t.shape[1] // 2
        other_1t = self._tokens_1t.clone()
        other_1t[:, half:] = self._tokens_1t.roll(half // 2 + 1, 1)[:, half:]
        seen: dict[int, Tensor] = {}
        with _hooked({layer: (module, self._repeated(layer, half, seen)) for layer, module in modules.items()}):
            self._losses(engine, other_1t)
        rows, size_of_step = [], STEPS[engine.precision]
        base = self._losses(engine, self._tokens_1t)
        for layer, module in modules.items():
            z = self._z[layer][:, :half].double()
            centred = z - z.mean(dim=1, keepdim=True)
            error = (seen[layer] - z).square().sum()
            size = centred.square().sum() + SMALL**2 * z.square().sum()
            dz = self._dz.get(layer, torch.zeros_like(self._z[layer])) / self._scale
            step = size_of_step * dz.sign()
            up, down = (self._moved(engine, layer, module, sign * step) for sign in (1, -1))
            expected = 2 * (step.double() * dz.double()).sum()
            rounding = ROUNDING[engine.precision] * base.square().sum().sqrt()
            apart = SAFETY * (up + down - 2 * base).square().sum().sqrt() / math.sqrt(6)  # of one loss; three are in it
            noise = torch.maximum(apart, LEAST_NOISE[engine.precision] * rounding)
            noise = torch.where(apart > 0, noise, rounding)  # nothing has moved: the change is lost altogether
            rows.append(torch.stack([error, size, (up - down).sum(), expected, noise.square()]))
        return torch.stack(rows)

    def _repeated(self, layer: int, half: int, seen: dict[int, Tensor]) -> Any:
        def compare(module: Any, inputs: Any, z_1th: Tensor) -> Tensor:
            seen[layer] = z_1th[:, :half].double()
            return torch.cat([self._z[layer][:, :half], z_1th[:, half:]], dim=1)

        return compare

    def _moved(self, engine: "Engine", layer: int, module: Positions, u_1th: Tensor) -> Tensor:
        with _hooked({layer: (module, lambda _, __, z: z + u_1th)}):
            return self._losses(engine, self._tokens_1t)

    def _losses(self, engine: "Engine", tokens_1t: Tensor) -> Tensor:
        """Returns what each label adds to the loss, float64 [T], without the z-loss."""
        from train.engine.engine import MicroBatch

        sums: LossSums = engine.evaluate(MicroBatch(tokens_1t, self._labels_1t, self._documents))
        assert sums.ce_bt is not None
        return sums.ce_bt[0].double()


def check_values(sums: list[float]) -> tuple[float, float]:
    """Returns a layer's position_error and gradient_slope, from its part of what `RowCheck.run` returned."""
    error, size, change, expected, noise = sums
    slope, doubt = (change / expected, math.sqrt(noise) / expected) if expected > 0 else (math.nan, math.inf)
    is_known = CERTAIN * doubt < 1 or abs(slope - 1) > TOLERANCE + CERTAIN * doubt
    return (math.sqrt(error / size) if size else 0.0), (slope if is_known else math.nan)


def _first_row(documents: Documents, length: int, device: torch.device) -> Documents:
    ends = np.cumsum(documents.lengths)
    return Documents.from_boundaries([np.concatenate([[0], ends[ends <= length]])], device)


@contextmanager
def _hooked(hooks: Mapping[int, tuple[Positions, Any]]) -> Iterator[None]:
    handles = [module.register_forward_hook(hook) for module, hook in hooks.values()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
