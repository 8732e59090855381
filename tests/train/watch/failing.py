"""Failures put into real runs: callbacks that break the positions of a model in training from a step on."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from model.positions.module import Positions
from train.callbacks.callback import Callback, TrainerInterface
from train.engine.engine import Engine

Damage = Callable[[Engine, Positions], None]


class Breaking(Callback):
    """After the update of every step of `steps`, `damage(engine, module)` for RePo layers: all, or only the first.

    At most `times` steps, so that a step that is done again after a rollback need not break again.
    """

    def __init__(self, damage: Damage, steps: range, *, only_first: bool = False, times: int = 10**9) -> None:
        self._damage = damage
        self._steps = steps
        self._only_first = only_first
        self._times = times

    def on_update(self, trainer: TrainerInterface) -> None:
        if trainer.step in self._steps and self._times:
            self._times -= 1
            modules = [module for _, module in trainer.engine.model.learned_positions()]
            for module in modules[: 1 if self._only_first else None]:
                self._damage(trainer.engine, module)


def scale_final(factor: float, head: int | None = None) -> Damage:
    """Multiply W_z, or its row of one head, and its master under ZeRO 1 or 2."""
    from deepspeed.utils import safe_get_full_fp32_param, safe_set_full_fp32_param

    def damage(engine: Engine, module: Positions) -> None:
        weight = module.get_parameter("final.weight")
        rows = torch.ones_like(weight)
        rows[slice(None) if head is None else head] = factor
        safe_set_full_fp32_param(weight, safe_get_full_fp32_param(weight) * rows)
        weight.data.mul_(rows)

    return damage


def once(register: Callable[[Positions], Any]) -> Damage:
    """Hook a module the first time."""
    hooked: set[int] = set()

    def damage(engine: Engine, module: Positions) -> None:
        if id(module) not in hooked:
            hooked.add(id(module))
            register(module)

    return damage


def detach_output(module: Any) -> None:
    """No gradient reaches what is before the output of `module`."""
    module.register_forward_hook(lambda _, __, output: output.detach())


def zero_gradients(module: Positions) -> None:
    """The maps get gradients of zero."""
    for parameter in module.parameters():
        parameter.register_hook(torch.zeros_like)


def force_index(module: Positions) -> None:
    """Positions become the token index, with and without a gradient that goes on to the maps."""

    def index(_: Any, __: Any, z_bth: Tensor) -> Tensor:
        t_1t1 = torch.arange(z_bth.shape[1], dtype=z_bth.dtype)[None, :, None]
        return t_1t1 + (z_bth - z_bth.detach())

    module.register_forward_hook(index)


def replace_by_index(module: Positions) -> None:
    """The same without the gradient."""
    force_index(module)
    detach_output(module)
