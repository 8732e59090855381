"""Ways to injure the positions of a model in training: what is called when the damage begins, or after every update."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from model.positions.module import Positions


@dataclass(frozen=True)
class Injury:
    """A damage to one layer: `begin` when it begins, `repeat` after every update from then on."""

    begin: Callable[[Positions, int], None] | None = None
    repeat: Callable[[Positions, int], None] | None = None
    rate_factor: float = 1.0
    """Multiplies the learning rate of the maps from the beginning on."""


def _rows(weight: Tensor, head: int | None) -> Tensor:
    return weight if head is None else weight[head : head + 1]


def scaled_map(factor: float, *, one_head: bool = False, once: bool = False) -> Injury:
    """Multiplies W_z, or the row of one head, after every update or once."""

    def scale(module: Positions, head: int) -> None:
        _rows(module.get_parameter("final.weight").data, head if one_head else None).mul_(factor)

    return Injury(begin=scale) if once else Injury(repeat=scale)


def kept_map() -> Injury:
    """Gives W_z after every update the values that it had when the damage began."""
    kept: dict[int, Tensor] = {}

    def begin(module: Positions, head: int) -> None:
        kept[id(module)] = module.get_parameter("final.weight").detach().clone()

    def repeat(module: Positions, head: int) -> None:
        module.get_parameter("final.weight").data.copy_(kept[id(module)])

    return Injury(begin, repeat)


def noisy_map(module: Positions, head: int) -> None:
    """Adds noise to W_z, a hundredth of its root mean square."""
    weight = module.get_parameter("final.weight").data
    weight.add_(torch.randn_like(weight) * weight.square().mean().sqrt() / 100)


def mean_rows(module: Positions, head: int) -> None:
    """Gives W_z the same row for every head."""
    weight = module.get_parameter("final.weight").data
    weight.copy_(weight.mean(dim=0, keepdim=True).expand_as(weight))


def output(change: Callable[[Tensor, int], Tensor]) -> Injury:
    """Changes the positions [B, T, H] that leave the module."""

    def begin(module: Positions, head: int) -> None:
        module.register_forward_hook(lambda _, __, z: change(z, head))

    return Injury(begin=begin)


def position_gradient(change: Callable[[Tensor, int], Tensor]) -> Injury:
    """Changes the gradient at the positions, before the watch sees it."""

    def begin(module: Positions, head: int) -> None:
        def hook(_: Any, __: Any, z: Tensor) -> None:
            if z.requires_grad:
                z.register_hook(lambda dz: change(dz, head))

        module.register_forward_hook(hook)

    return Injury(begin=begin)


def later_gradient(change: Callable[[Tensor, int], Tensor]) -> Injury:
    """Changes the gradient at the positions after the watch has seen it."""

    def begin(module: Positions, head: int) -> None:
        def hook(_: Any, gradients: Any) -> tuple[Tensor, ...]:
            return (change(gradients[0], head),)

        module.get_submodule("final").register_full_backward_pre_hook(hook)

    return Injury(begin=begin)


def map_gradient(name: str, change: Callable[[Tensor, int], Tensor]) -> Injury:
    """Changes the gradient of a map."""

    def begin(module: Positions, head: int) -> None:
        module.get_parameter(f"{name}.weight").register_hook(lambda gradient: change(gradient, head))

    return Injury(begin=begin)


def of_head(values: Tensor, head: int, factor: float) -> Tensor:
    """Multiplies what belongs to one head, in the last dimension of [B, T, H]."""
    factors = torch.ones(values.shape[-1])
    factors[head] = factor
    return values * factors


def of_row(weight: Tensor, head: int, factor: float) -> Tensor:
    """Multiplies one row of [H, m]."""
    return of_head(weight.t(), head, factor).t()


def offset(dz: Tensor, head: int) -> Tensor:
    """Adds its own root mean square to every element."""
    return dz + dz.square().mean().sqrt()


def permuted(values: Tensor, head: int) -> Tensor:
    """Puts the tokens in a new random order."""
    return values[:, torch.randperm(values.shape[1])]


def noise(dz: Tensor, head: int) -> Tensor:
    """Returns random numbers of the same size."""
    return torch.randn_like(dz) * dz.square().mean().sqrt()


def mixed(z: Tensor, head: int) -> Tensor:
    """Gives every head the mean over heads."""
    return z.mean(dim=2, keepdim=True).expand_as(z)


def copied(z: Tensor, head: int) -> Tensor:
    """Gives every head the positions of one."""
    return z[:, :, head : head + 1].expand_as(z)


def not_a_number(z: Tensor, head: int) -> Tensor:
    """Makes the positions of one head NaN."""
    return of_head(z, head, float("nan"))


def constant(z: Tensor, head: int) -> Tensor:
    """Gives all tokens of one head the same position, without a gradient."""
    keep = torch.ones(z.shape[-1])
    keep[head] = 0
    return z * keep + (z.detach().mean(dim=1, keepdim=True) * (1 - keep))


def index(z: Tensor, head: int) -> Tensor:
    """Gives every token its index."""
    return torch.arange(z.shape[1], dtype=z.dtype)[None, :, None] + 0 * z


def detached_head(z: Tensor, head: int) -> Tensor:
    """Cuts one head off from the gradient."""
    keep = torch.ones(z.shape[-1])
    keep[head] = 0
    return z * keep + z.detach() * (1 - keep)
