"""Checks the positions of one row and their gradient by running the row again, without a gradient.

Two things are measured of each layer, both independent of the code that made the positions and their gradient:

    position_error   |z' - z| / |z - mean z|, over the first half of the row; z': the positions of the same row with
                     other tokens in its second half
    gradient_slope   (L(z + u) - L(z - u)) / (2 sum u dz), where u = step * sign(dz), and L is the loss of the row

A token's position depends on itself and earlier tokens only, so the error is 0 up to rounding; positions in a wrong
order, or of other tokens, give 1 or more. The slope is 1 if dz is the gradient of the loss, -1 if its sign is wrong,
and 0 if it has nothing to do with the loss. It is not known (NaN) where rounding, or a loss that bends within the step,
could be why it is not 1.

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
ROUNDING = {Precision.fp32: 2.0**-20, Precision.bf16: 2.0**-7}  # of the loss of one token, relative
LEAST_NOISE = {Precision.fp32: 1.0, Precision.bf16: 1 / 32}  # of that rounding: the least noise of a change
SAFETY = 3.0  # times what is seen: tokens share some of it, so that it is larger in their sum
CERTAIN = 8.0  # times the noise by which a change must differ from none, or a slope from one
TOLERANCE = 0.2  # of a slope, besides the noise


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

        Every variant of the row is a row of a batch: the one with other tokens, the row as it is, then z + u and z - u
        of each layer. They run together, at most twice as many at a time as training has: without a gradient that needs
        less memory. Batches are equally large, as the rounding of a row can depend on the size of its batch.
        """
        half, num_variants = self._tokens_1t.shape[1] // 2, 2 * len(modules) + 2
        other_1t = self._tokens_1t.clone()
        other_1t[:, half:] = self._tokens_1t.roll(half // 2 + 1, 1)[:, half:]
        num_batches = math.ceil(num_variants / (2 * self._num_rows))
        size = math.ceil(num_variants / num_batches)
        tokens_vt = torch.cat([other_1t, self._tokens_1t.expand(num_batches * size - 1, -1)])
        gradients = {layer: self._dz.get(layer, torch.zeros_like(z)) / self._scale for layer, z in self._z.items()}
        steps = {layer: STEPS[engine.precision] * dz.sign() for layer, dz in gradients.items()}
        seen: dict[int, Tensor] = {}
        losses: list[Tensor] = []
        for first in range(0, len(tokens_vt), size):
            hooks = {
                layer: (module, self._changed(layer, first, 2 * number + 2, steps[layer], seen))
                for number, (layer, module) in enumerate(modules.items())
            }
            with _hooked(hooks):
                losses.append(self._losses(engine, tokens_vt[first : first + size]))
        losses_vt = torch.cat(losses)
        return torch.stack(
            [
                self._sums(engine, layer, seen[layer], losses_vt, 2 * number + 2, steps[layer], gradients[layer])
                for number, layer in enumerate(modules)
            ]
        )

    def _sums(
        self,
        engine: "Engine",
        layer: int,
        seen_1th: Tensor,
        losses_vt: Tensor,
        up_variant: int,
        u_1th: Tensor,
        dz_1th: Tensor,
    ) -> Tensor:
        """Returns a layer's part of what `run` returns."""
        z = self._z[layer][:, : seen_1th.shape[1]].double()
        centred = z - z.mean(dim=1, keepdim=True)
        error = (seen_1th - z).square().sum()
        size = centred.square().sum() + SMALL**2 * z.square().sum()
        base, up, down = losses_vt[1], losses_vt[up_variant], losses_vt[up_variant + 1]
        expected = 2 * (u_1th.double() * dz_1th.double()).sum()
        rounding = ROUNDING[engine.precision] * base.square().sum().sqrt()
        apart = SAFETY * (up + down - 2 * base).square().sum().sqrt() / math.sqrt(6)  # of one loss; three are in it
        noise = torch.maximum(apart, LEAST_NOISE[engine.precision] * rounding)
        noise = torch.where(apart > 0, noise, rounding)  # nothing has moved: the change is lost altogether
        return torch.stack([error, size, (up - down).sum(), expected, noise.square()])

    def _changed(self, layer: int, first: int, up_variant: int, u_1th: Tensor, seen: dict[int, Tensor]) -> Any:
        """Returns the hook of a layer for a batch that begins with the variant `first`: what changes at its positions.

        In variant 0, its positions of the first half are kept in `seen` and replaced by those of training.
        """

        def change(module: Any, inputs: Any, z_rth: Tensor) -> Tensor:
            z_rth = z_rth.clone()
            if first == 0:
                half = z_rth.shape[1] // 2
                seen[layer] = z_rth[:1, :half].double()
                z_rth[0, :half] = self._z[layer][0, :half]
            for row, sign in ((up_variant - first, 1), (up_variant + 1 - first, -1)):
                if 0 <= row < len(z_rth):
                    z_rth[row] += sign * u_1th[0]
            return z_rth

        return change

    def _losses(self, engine: "Engine", tokens_rt: Tensor) -> Tensor:
        """Returns what each label adds to the loss, float64 [R, T], the z-loss included: the gradient has it, too."""
        from train.engine.engine import MicroBatch

        labels_rt = self._labels_1t.expand(len(tokens_rt), -1)
        documents = None
        if self._boundaries is not None:
            documents = Documents.from_boundaries([self._boundaries] * len(tokens_rt), tokens_rt.device)
        sums: LossSums = engine.evaluate(MicroBatch(tokens_rt, labels_rt, documents))
        assert sums.ce_bt is not None and sums.z_bt is not None
        return sums.ce_bt.double() + sums.z_bt.double()


def check_values(sums: list[float]) -> tuple[float, float]:
    """Returns a layer's position_error and gradient_slope, from its part of what `RowCheck.run` returned."""
    error, size, change, expected, noise = sums
    slope, doubt = (change / expected, math.sqrt(noise) / expected) if expected > 0 else (math.nan, math.inf)
    is_known = CERTAIN * doubt < 1 or abs(slope - 1) > TOLERANCE + CERTAIN * doubt
    return (math.sqrt(error / size) if size else 0.0), (slope if is_known else math.nan)


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
