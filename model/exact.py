"""A linear map whose result is float32 as if computed exactly, whatever the precision switches say.

RePo's positions are angles: an error of 0.1 in z is an error of 0.1 rad in the fastest pair of every head. Autocast,
TF32 and bfloat16 outputs each cost that much at |z| of a few hundred. Two products escape all of them:

- bfloat16 operands on a GPU: their products are exact in float32, so tensor cores that accumulate and return float32
  lose nothing worth naming.
- anything else: float64, which no switch rounds. It is used where the operands are small (RePo's final map, 0.3 GFLOP
  per 32k tokens) or where speed is not the point (float32 parameters, CPU).
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

_HALF = (torch.bfloat16, torch.float16)


def exact_product(a_mk: Tensor, b_kn: Tensor) -> Tensor:
    """`a @ b` in float32, in float64 where an operand is float64."""
    if a_mk.is_cuda and a_mk.dtype == b_kn.dtype and a_mk.dtype in _HALF:
        return torch.mm(a_mk, b_kn, out_dtype=torch.float32)
    wide = torch.promote_types(torch.promote_types(a_mk.dtype, b_kn.dtype), torch.float32)
    return (a_mk.double() @ b_kn.double()).to(wide)


class _ExactLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_nk: Tensor, weight_mk: Tensor) -> Tensor:
        ctx.save_for_backward(x_nk, weight_mk)
        return exact_product(x_nk, weight_mk.t())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_nm: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x_nk, weight_mk = ctx.saved_tensors
        needs_x, needs_weight = ctx.needs_input_grad
        # The gradient takes the input's dtype only here, as an operand: bfloat16 where x is, float32 between the maps.
        grad_nm = grad_nm.to(x_nk.dtype)
        grad_x = exact_product(grad_nm, weight_mk).to(x_nk.dtype) if needs_x else None
        grad_weight = exact_product(grad_nm.t(), x_nk).to(weight_mk.dtype) if needs_weight else None
        return grad_x, grad_weight


class ExactLinear(nn.Linear):
    """`x @ weight.T` without bias: x [..., in] of any float dtype -> [..., out] float32 (float64 from float64)."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = _ExactLinear.apply(x.flatten(0, -2), self.weight)
        return y.unflatten(0, x.shape[:-1])
