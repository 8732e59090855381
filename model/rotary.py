"""Rotary embedding by real-valued positions: q and k of position z rotate by z * w_i in their i-th pair of dimensions.

Pairs are (i, i + D/2), as in GPT-NeoX and OLMo-2. A RoPE layer's positions are 0, 1, 2, ...; a RePo layer's come from
the model, one per token and key-value head, and have a gradient (arXiv 2512.14391, section 3). They can also be
deviations from the index.

Angles are computed as turns in float64 and reduced to half a turn before they become float32, so cosines are as
accurate at position 1,000,000 as at 1. Only z and the rotated q, k are kept for the backward pass (attention keeps
those two anyway), and on a CPU cosines and sines of learned positions, which take long there. With y the rotated
pair, g its gradient:

    dL/dangle_i = g2 y1 - g1 y2        dL/dz = sum_i w_i dL/dangle_i

which needs neither the cosines nor the input.
"""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from model.config import ModelConfig, PositionPrecision, PositionsConfig, YarnConfig


class Frequencies:
    """The rotation frequency of each pair of head dimensions.

    It is no module, parameter or buffer on purpose: `.bfloat16()`, `.to_empty()` and the meta device cannot change it.
    """

    def __init__(self, model: ModelConfig, positions: PositionsConfig) -> None:
        pairs = np.arange(0, model.head_dim, 2, dtype=np.float64)
        radians = unstretched = model.rope_theta ** -(pairs / model.head_dim)
        self.attention_factor = 1.0  # YaRN's scale of cosine and sine
        if positions.yarn is not None:
            radians = _stretch(radians, model.rope_theta, positions.yarn)
            self.attention_factor = 0.1 * math.log(positions.yarn.factor) + 1.0
        self.precision = positions.precision
        self.round_to_input = positions.precision is PositionPrecision.reference
        self.num_pairs = len(radians)
        turns, unstretched_turns = (torch.from_numpy(table / (2 * math.pi)) for table in (radians, unstretched))
        self._turns = (turns, unstretched_turns)
        self._per_device = {turns.device: self._turns}
        high = turns.float()
        split = torch.stack([high, (turns - high).float(), (turns * 2 * math.pi).float()])
        self._split_per_device = {split.device: split}

    def turns(self, device: torch.device) -> Tensor:
        """Returns the turns per position of each pair, [D/2] float64, on `device`."""
        return self._on(device)[0]

    def deviation_turns(self, device: torch.device) -> Tensor:
        """Returns the turns per unit of a deviation from the index, [D/2] float64, on `device`.

        YaRN does not stretch them: there are more indices than in training, but no larger deviations.
        """
        return self._on(device)[1]

    def _on(self, device: torch.device) -> tuple[Tensor, Tensor]:
        if device not in self._per_device:
            turns, unstretched_turns = self._turns
            self._per_device[device] = (turns.to(device), unstretched_turns.to(device))
        return self._per_device[device]

    def split(self, device: torch.device) -> Tensor:
        """Returns float32 [3, D/2] on `device`: turns rounded to 24 bits, what is left of them, and radians."""
        if device not in self._split_per_device:
            self._split_per_device[device] = self._split_per_device[torch.device("cpu")].to(device)
        return self._split_per_device[device]


def _stretch(radians: np.ndarray, theta: float, yarn: YarnConfig) -> np.ndarray:
    """Returns YaRN's frequencies (arXiv 2309.00071, section 3.2): those of fast pairs as they are, those of slow pairs
    divided by the factor, and linear blends between.
    """
    num_pairs = len(radians)

    def pair_that_turns(times: float) -> float:
        turns_per_radian = yarn.original_max_position / (2 * math.pi * times)
        return num_pairs * math.log(turns_per_radian) / math.log(theta)

    low = max(math.floor(pair_that_turns(yarn.beta_fast)), 0)
    high = min(math.ceil(pair_that_turns(yarn.beta_slow)), 2 * num_pairs - 1)
    slowed = np.clip((np.arange(num_pairs) - low) / max(high - low, 1e-3), 0, 1)
    return radians * (1 - slowed) + radians / yarn.factor * slowed


def rotate(
    q_bthd: Tensor, k_bthd: Tensor, positions: Tensor, frequencies: Frequencies, index_t: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Returns q [B, T, H, D] and k [B, T, H_kv, D] rotated by their positions, dtypes as they were; float32 inside.

    `positions` is [T], one for all heads, or [B, T, H_kv], one per key-value head: the query heads that share a key
    head share its position, since only differences of positions enter attention. Integer or float. With `index_t` [T]
    they are deviations from it. The two are never added: a small deviation from a large index keeps its precision.
    """
    turns = frequencies.turns(q_bthd.device)
    return _Rotate.apply(
        q_bthd,
        k_bthd,
        positions,
        turns if index_t is None else frequencies.deviation_turns(q_bthd.device),
        None if index_t is None else index_t.double().unsqueeze(-1) * turns,
        frequencies.attention_factor,
        frequencies.round_to_input,
    )


class _Rotate(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        positions: Tensor,
        turns: Tensor,
        index_turns: Tensor | None,
        factor: float,
        round_to_input: bool,
    ) -> tuple[Tensor, Tensor]:
        cos, sin = _cos_sin(positions, turns, index_turns, factor, q.dtype, round_to_input)
        q_turned, k_turned = _turn(q, cos, sin), _turn(k, cos, sin)
        kept = (cos, sin) if _keeps_cos_sin(q, positions) else (None, None)
        ctx.save_for_backward(q_turned, k_turned, positions, turns, index_turns, *kept)
        ctx.factor, ctx.round_to_input = factor, round_to_input
        return q_turned, k_turned

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_q: Tensor, grad_k: Tensor) -> tuple[Tensor | None, ...]:
        q_turned, k_turned, positions, turns, index_turns, cos, sin = ctx.saved_tensors
        if cos is None:
            cos, sin = _cos_sin(positions, turns, index_turns, ctx.factor, grad_q.dtype, ctx.round_to_input)
        grad_z = None
        if ctx.needs_input_grad[2]:
            num_kv_heads = k_turned.shape[2]
            slope = _slope(grad_q, q_turned)
            if slope.shape[2] != num_kv_heads:
                slope = slope.unflatten(2, (num_kv_heads, -1)).sum(3)
            slope += _slope(grad_k, k_turned)
            grad_z = slope.mul_((turns * 2 * math.pi).to(slope.dtype)).sum(-1).to(positions.dtype)
        return _turn(grad_q, cos, sin, back=True), _turn(grad_k, cos, sin, back=True), grad_z, None, None, None, None


def _keeps_cos_sin(q: Tensor, positions: Tensor) -> bool:
    """Returns whether cosines and sines of these positions are kept (model/activations.py counts them)."""
    return q.is_cpu and positions.ndim > 1 and not torch.compiler.is_compiling()


# Passes over memory are the cost of what follows: eager operators write into their last tensor, in its dtype.
# Every value is rounded as the exported code rounds it (model/huggingface/): the two agree to the bit.


def _cos_sin(
    positions: Tensor,
    turns: Tensor,
    index_turns: Tensor | None,
    factor: float,
    dtype: torch.dtype,
    round_to_input: bool,
) -> tuple[Tensor, Tensor]:
    """Returns cosine and sine of every angle, [1, T, 1, D/2] or [B, T, H_kv, D/2], float32 or wider.

    `index_turns` [T, D/2] are added to the turns of positions [B, T, H_kv].
    """
    wide = torch.promote_types(dtype, torch.float32)
    angle = positions.double().unsqueeze(-1) * turns
    if index_turns is not None:
        angle = angle.add_(index_turns.unsqueeze(1))
    angle = torch.sub(angle, angle.round(), out=torch.empty_like(angle, dtype=wide)).mul_(2 * math.pi)
    if positions.ndim == 1:
        angle = angle[None, :, None]
    cos, sin = angle.cos(), angle.sin_()
    if factor != 1:
        cos, sin = cos.mul_(factor), sin.mul_(factor)
    if round_to_input:
        cos, sin = cos.to(dtype).to(wide), sin.to(dtype).to(wide)
    return cos, sin


def _turn(x_bthd: Tensor, cos: Tensor, sin: Tensor, *, back: bool = False) -> Tensor:
    """Returns x with each pair rotated, or rotated back.

    Where x has more heads than the angles, consecutive heads share an angle.
    """
    x1, x2 = x_bthd.unflatten(2, (cos.shape[2], -1)).chunk(2, dim=-1)
    cos, sin = cos.unsqueeze(3), sin.unsqueeze(3)
    first, second = (torch.add, torch.sub) if back else (torch.sub, torch.add)
    if torch.compiler.is_compiling():  # the compiler refuses parts of a tensor as outputs, and needs no such help
        return torch.cat((first(x1 * cos, x2 * sin), second(x2 * cos, x1 * sin)), dim=-1).flatten(2, 3).to(x_bthd.dtype)
    out_bthd = torch.empty_like(x_bthd, memory_format=torch.contiguous_format)
    out1, out2 = out_bthd.unflatten(2, (cos.shape[2], -1)).chunk(2, dim=-1)
    first(x1 * cos, x2 * sin, out=out1)
    second(x2 * cos, x1 * sin, out=out2)
    return out_bthd


def _slope(grad_bthd: Tensor, turned_bthd: Tensor) -> Tensor:
    """Returns dL/dangle of each pair, [B, T, H, D/2], float32 or wider."""
    wide = torch.promote_types(grad_bthd.dtype, torch.float32)
    g1, g2 = grad_bthd.to(wide).chunk(2, dim=-1)
    y1, y2 = turned_bthd.chunk(2, dim=-1)
    return (g2 * y1).addcmul_(g1, y2, value=-1)
