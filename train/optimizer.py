"""AdamW with the published parameter groups.

Published (OLMo's `decay_norm_and_bias: true`, `decay_embeddings: false`): weight decay on everything, norms and RePo's
maps included, except the input embedding. The maps of learned position schemes are a group of their own so that they
can have their own learning rate; with the recipe's values that changes nothing.
"""

import inspect
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from model.weights import is_position_parameter
from train.optimizer_config import OptimizerConfig

POSITIONS_GROUP = "repo"
"""The group of all learned position maps, by its name in saved optimizer states."""
P = TypeVar("P")  # a parameter, or what stands for one


class AdamW(torch.optim.AdamW):
    """torch's AdamW without the wrappers of its methods, which import torch's compiler at their first call.

    That import takes as long as the one of torch.
    """

    add_param_group = inspect.unwrap(torch.optim.AdamW.add_param_group)
    load_state_dict = inspect.unwrap(torch.optim.AdamW.load_state_dict)
    state_dict = inspect.unwrap(torch.optim.AdamW.state_dict)
    zero_grad = inspect.unwrap(torch.optim.AdamW.zero_grad)
    step = torch.no_grad()(inspect.unwrap(torch.optim.AdamW.step))


def group_name(parameter_name: str, config: OptimizerConfig) -> str:
    """Returns the group of a parameter: `repo`, `no_decay` or `decay`."""
    if is_position_parameter(parameter_name):
        return POSITIONS_GROUP
    is_embedding = parameter_name.startswith("embed_tokens.")
    is_norm = "norm" in parameter_name.rsplit(".", 2)[-2]
    undecayed = (is_embedding and not config.decay_embeddings) or (is_norm and not config.decay_norms)
    return "no_decay" if undecayed else "decay"


def parameter_groups(named: Iterable[tuple[str, P]], config: OptimizerConfig) -> list[dict[str, Any]]:
    """Returns the groups that have parameters, in a fixed order."""
    groups: dict[str, list[P]] = {"decay": [], "no_decay": [], POSITIONS_GROUP: []}
    for name, parameter in named:
        groups[group_name(name, config)].append(parameter)
    return [
        {"name": name, "params": members, "weight_decay": 0.0 if name == "no_decay" else config.weight_decay}
        for name, members in groups.items()
        if members
    ]


def uses_fused_kernel(device: torch.device) -> bool:
    """Returns whether AdamW makes an update in one pass there: on a CPU nine times as fast as torch's default."""
    return device.type in ("cuda", "cpu")


def build_optimizer(named: Iterable[tuple[str, nn.Parameter]], config: OptimizerConfig, *, fused: bool) -> AdamW:
    """Returns AdamW; `train.schedule` gives its learning rates before every update."""
    beta1, beta2 = config.betas
    return AdamW(parameter_groups(named, config), lr=config.lr, betas=(beta1, beta2), eps=config.eps, fused=fused)


def adamw_change(
    value: Tensor, exp_avg: Tensor, exp_avg_sq: Tensor, num_updates: Tensor, group: Mapping[str, Any]
) -> Tensor:
    """Returns what AdamW's update number `num_updates` adds to `value`, given its moments after it, in float64.

    `group`: lr, weight_decay, betas and eps. It is the rule itself, independent of the kernel that made the update.
    """
    beta1, beta2 = group["betas"]
    num = num_updates.double()
    mean, square = exp_avg.double() / (1 - beta1**num), exp_avg_sq.double() / (1 - beta2**num)
    return -group["lr"] * (mean / (square.sqrt() + group["eps"]) + group["weight_decay"] * value.double())
