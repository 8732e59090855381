"""AdamW with the published parameter groups.

Published (OLMo's `decay_norm_and_bias: true`, `decay_embeddings: false`): weight decay on everything, norms and RePo's
maps included, except the input embedding. RePo's parameters are a group of their own so that they can have their own
rate; with the recipe's values that changes nothing.
"""

from collections.abc import Iterable
from typing import Any, TypeVar

import torch
from torch import nn

from train.optimizer_config import OptimizerConfig

REPO_GROUP = "repo"
P = TypeVar("P")  # a parameter, or whatever stands for one


def group_name(parameter_name: str, config: OptimizerConfig) -> str:
    """Which group a parameter belongs to: `repo`, `no_decay` or `decay`."""
    if ".positions." in parameter_name:
        return REPO_GROUP
    is_embedding = parameter_name.startswith("embed_tokens.")
    is_norm = "norm" in parameter_name.rsplit(".", 2)[-2]
    undecayed = (is_embedding and not config.decay_embeddings) or (is_norm and not config.decay_norms)
    return "no_decay" if undecayed else "decay"


def parameter_groups(named: Iterable[tuple[str, P]], config: OptimizerConfig) -> list[dict[str, Any]]:
    """Groups in a fixed order, empty ones left out."""
    groups: dict[str, list[P]] = {"decay": [], "no_decay": [], REPO_GROUP: []}
    for name, parameter in named:
        groups[group_name(name, config)].append(parameter)
    return [
        {"name": name, "params": members, "weight_decay": 0.0 if name == "no_decay" else config.weight_decay}
        for name, members in groups.items()
        if members
    ]


def build_optimizer(
    named: Iterable[tuple[str, nn.Parameter]], config: OptimizerConfig, *, fused: bool
) -> torch.optim.AdamW:
    """torch's AdamW; its rates are set before every update from `train.schedule`."""
    beta1, beta2 = config.betas
    return torch.optim.AdamW(
        parameter_groups(named, config), lr=config.lr, betas=(beta1, beta2), eps=config.eps, fused=fused
    )
