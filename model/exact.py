"""A linear map with a float32 result that is accurate to float32, independent of autocast and TF32 settings.

RePo's positions are angles: an error of 0.1 in z is an error of 0.1 rad in the fastest pair of every head. Autocast,
TF32 and bfloat16 outputs each cost that much at |z| of a few hundred. Two kinds of product are not affected:

- bfloat16 operands on a GPU: their products are exact in float32, and tensor cores accumulate and return float32, so
  that only the rounding of float32 sums is left.
- anything else: float64, which no setting rounds. It is used where the operands are small (RePo's final map, 0.3 GFLOP
  per 32k tokens) or where speed matters less (float32 parameters, CPU).
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

HALF = (torch.bfloat16, torch.float16)


def has_wide_products(operand: Tensor) -> bool:
    """Returns whether products of operands of this dtype are exact, and summed and returned in float32, there."""
    return operand.is_cuda and operand.dtype in HALF


def exact_product(a_mk: Tensor, b_kn: Tensor) -> Tensor:
    """Returns `a @ b` in float32, in float64 where an operand is float64."""
    if a_mk.dtype == b_kn.dtype and has_wide_products(a_mk):
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
        # Only here, as an operand, does the gradient get the dtype of x: bfloat16 at the input, float32 between maps.
        grad_nm = grad_nm.to(x_nk.dtype)
        grad_x = exact_product(grad_nm, weight_mk).to(x_nk.dtype) if needs_x else None
        grad_weight = exact_product(grad_nm.t(), x_nk).to(weight_mk.dtype) if needs_weight else None
        return grad_x, grad_weight


class ExactLinear(nn.Linear):
    """`x @ weight.T` without bias: x [..., in] of any float dtype -> [..., out] float32 (float64 from float64)."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Returns [..., out]."""
        y: Tensor = _ExactLinear.apply(x.flatten(0, -2), self.weight)
        return y.unflatten(0, x.shape[:-1])
