# Copyright 2026 The authors of repo-cpt.
#
# Licensed under the Apache License, Version 2.0: http://www.apache.org/licenses/LICENSE-2.0. Distributed on an "AS IS"
# BASIS, WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
"""The position schemes that a layer may have: their maps, and the positions that these give.

An export adds the schemes of its model that are not of this list at the end of this file, from their own source.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Maps = Mapping[str, Callable[[Tensor], Tensor]]


@dataclass(frozen=True)
class Scheme:
    """How the tokens of a layer get their positions."""

    positions: Callable[[Tensor, Maps], Tensor | None] | None = None
    """Returns positions [T] or [B, T, H_kv], or None for no rotation, from the input of the layer [B, T, d] and the
    maps by name. Where there is no such function, the position of a token is its index."""
    maps: Callable[[Any], dict[str, tuple[str, int, int]]] = lambda config: {}
    """Returns the name in the layer, outputs and inputs of each map by its name, of a configuration."""
    is_rotated: bool = True
    """Whether q and k are rotated at all."""
    is_learned: bool = False
    """Whether positions follow from h; else they follow from the index alone."""
    adds_index: bool = False
    """Whether a token stands at its index plus its position."""
    zero_maps: frozenset[str] = frozenset()
    """The maps that begin as zero."""


def exact_gated(h: Tensor, gate: Callable[[Tensor], Tensor], content: Callable[[Tensor], Tensor]) -> Tensor:
    """Returns silu(gate(h)) * content(h), [B, T, m]."""
    return F.silu(gate(h)) * content(h)


def gated_positions(h_btd: Tensor, maps: Maps) -> Tensor:
    """Returns z [B, T, H_kv], float32 or wider."""
    z = maps["final"](exact_gated(h_btd, maps["gate"], maps["content"]))
    return z.to(torch.promote_types(z.dtype, torch.float32))


def gated_maps(prefix: str, config: Any) -> dict[str, tuple[str, int, int]]:
    """Returns RePo's three maps, with names that begin with `prefix`."""
    return {
        "gate": (f"{prefix}gate_map", config.repo_width, config.hidden_size),
        "content": (f"{prefix}content_map", config.repo_width, config.hidden_size),
        "final": (f"{prefix}final_map", config.num_key_value_heads, config.repo_width),
    }


SCHEMES = {
    "rope": Scheme(),
    "nope": Scheme(is_rotated=False),
    "repo": Scheme(gated_positions, lambda config: gated_maps("", config), is_learned=True),
    "residual": Scheme(
        gated_positions,
        lambda config: gated_maps("deviation_", config),
        is_learned=True,
        adds_index=True,
        zero_maps=frozenset({"final"}),
    ),
}
