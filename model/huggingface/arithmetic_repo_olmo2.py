# Copyright 2026 The authors of repo-cpt.
#
# Licensed under the Apache License, Version 2.0: http://www.apache.org/licenses/LICENSE-2.0. Distributed on an "AS IS"
# BASIS, WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
"""What modeling_repo_olmo2.py computes with: norms, the maps of positions, frequencies and rotation, as in training.

Frequencies are kept as the bits of float64 numbers in an integer buffer: it moves to a device with the model, and
`.to(torch.bfloat16)` leaves it as it is. Angles are reduced to half a turn in float64, as in training. Devices without
float64 (Apple's MPS) are not supported.
"""

import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn


class RepoRMSNorm(nn.Module):
    """x / rms(x) * weight, float32 inside."""

    def __init__(self, width: int, eps: float, rounds_before_weight: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.variance_epsilon = eps
        self.rounds_before_weight = rounds_before_weight

    def forward(self, x: Tensor) -> Tensor:
        """Returns a tensor of the shape and dtype of x."""
        if not self.rounds_before_weight:
            return F.rms_norm(x, self.weight.shape, self.weight, self.variance_epsilon)
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        unit = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.variance_epsilon)
        return self.weight * unit.to(x.dtype)


class RepoMap(nn.Module):
    """x @ weight.T. It is no nn.Linear on purpose: vLLM replaces those, and would round the result."""

    def __init__(self, num_inputs: int, num_outputs: int, is_exact: bool, starts_at_zero: bool = False) -> None:
        super().__init__()
        self.starts_at_zero = starts_at_zero
        self.weight = nn.Parameter(torch.empty(num_outputs, num_inputs))
        self.is_exact = is_exact

    def forward(self, x: Tensor) -> Tensor:
        """Returns [..., out]: float32, accurate to float32, where exact; else in the dtype of x."""
        if not self.is_exact:
            return F.linear(x, self.weight)
        weight, flat = self.weight, x.flatten(0, -2)
        if x.is_cuda and x.dtype == weight.dtype and x.dtype in (torch.bfloat16, torch.float16):
            with torch.autocast("cuda", enabled=False):  # such products are exact in float32, and in TF32 too
                y = flat.float() @ weight.t().float()
        elif torch.float64 not in (x.dtype, weight.dtype) and _has_float32_products(x):
            with torch.autocast("cpu", enabled=False):
                y = flat.float() @ weight.t().float()
        else:
            wide = torch.promote_types(torch.promote_types(x.dtype, weight.dtype), torch.float32)
            y = (flat.double() @ weight.t().double()).to(wide)
        return y.unflatten(0, x.shape[:-1])


def _has_float32_products(x: Tensor) -> bool:
    """Returns whether torch computes float32 products there as float32: on a CPU, unless a setting says otherwise.

    Compiled code cannot ask, and torch before 2.9 does not say.
    """
    onednn: Any = torch.backends.mkldnn
    if x.device.type != "cpu" or torch.compiler.is_compiling() or not hasattr(onednn, "matmul"):
        return False
    return not onednn.is_acl_available() and onednn.matmul.fp32_precision in ("none", "ieee")


class RepoRotation(nn.Module):
    """Cosine and sine of real-valued positions, with YaRN (arXiv 2309.00071) where `rope_parameters` ask for it.

    Deviations from an index are not stretched by YaRN, as in training.
    """

    turn_bits: Tensor  # int64 [2, D/2], the bits of float64 turns: per position, and per unit of a deviation

    def __init__(self, config: Any) -> None:
        super().__init__()
        head_dim = config.hidden_size // config.num_attention_heads
        turns, self.attention_factor = _frequencies(config, head_dim)
        self.bits: list[list[int]] = turns.view(np.int64).tolist()
        self.rounds = config.position_precision == "reference"
        self.register_buffer("turn_bits", torch.tensor(self.bits, dtype=torch.int64), persistent=False)

    def forward(self, positions: Tensor, dtype: torch.dtype, index: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Returns cosine and sine [B, T, heads, D/2] of positions [B, T, heads], float32 or as wide as `dtype`.

        With `index` [B, T, 1], positions are deviations from it.
        """
        wide = torch.promote_types(dtype, torch.float32)
        turns, deviation_turns = self.turn_bits.view(torch.float64)
        if index is None:
            angle = positions.double().unsqueeze(-1) * turns
        else:
            angle = positions.double().unsqueeze(-1) * deviation_turns + index.double().unsqueeze(-1) * turns
        angle = (angle - angle.round()).to(wide) * (2 * math.pi)
        cos, sin = angle.cos() * self.attention_factor, angle.sin() * self.attention_factor
        if self.rounds:
            cos, sin = cos.to(dtype).to(wide), sin.to(dtype).to(wide)
        return cos, sin


def _frequencies(config: Any, head_dim: int) -> tuple[np.ndarray, float]:
    """Returns the turns per position and per unit of a deviation, [2, D/2] float64, and a factor of cosine."""
    rope: dict[str, Any] = config.rope_parameters
    kind, theta = rope.get("rope_type", "default"), rope["rope_theta"]
    radians: np.ndarray = theta ** -(np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)
    if kind == "default":
        return np.stack([radians, radians]) / (2 * math.pi), 1.0
    if kind != "yarn" or not rope.get("truncate", True):
        raise ValueError(f"rope_parameters {rope} are not known here; rope_type can be 'default' or 'yarn' (truncated)")
    num_pairs, factor = len(radians), float(rope["factor"])
    original = rope.get("original_max_position_embeddings") or config.max_position_embeddings

    def pair_that_turns(times: float) -> float:
        return num_pairs * math.log(original / (2 * math.pi * times)) / math.log(theta)

    low = max(math.floor(pair_that_turns(rope.get("beta_fast") or 32.0)), 0)
    high = min(math.ceil(pair_that_turns(rope.get("beta_slow") or 1.0)), 2 * num_pairs - 1)
    slowed = np.clip((np.arange(num_pairs) - low) / max(high - low, 1e-3), 0, 1)
    both = np.stack([radians * (1 - slowed) + radians / factor * slowed, radians]) / (2 * math.pi)
    scale, scale_all = rope.get("mscale"), rope.get("mscale_all_dim")
    attention_factor = rope.get("attention_factor")
    if attention_factor is None and scale and scale_all:
        attention_factor = _yarn_scale(factor, scale) / _yarn_scale(factor, scale_all)
    return both, _yarn_scale(factor, 1.0) if attention_factor is None else float(attention_factor)


def _yarn_scale(factor: float, scale: float) -> float:
    return 0.1 * scale * math.log(factor) + 1.0 if factor > 1 else 1.0


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Returns x [B, T, H, D] with pairs (i, i + D/2) rotated; where x has more heads, neighbours share an angle."""
    x1, x2 = x.unflatten(2, (cos.shape[2], -1)).chunk(2, dim=-1)
    cos, sin = cos.unsqueeze(3), sin.unsqueeze(3)
    return torch.cat((x1 * cos - x2 * sin, x2 * cos + x1 * sin), dim=-1).flatten(2, 3).to(x.dtype)
