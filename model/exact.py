"""A linear map with a float32 result that is accurate to float32, independent of autocast and TF32 settings.

RePo's positions are angles: an error of 0.1 in z is an error of 0.1 rad in the fastest pair of every head. Autocast,
TF32 and bfloat16 outputs each cost that much at |z| of a few hundred. These products are not affected; what is left in
float32 is the rounding of sums, about 1e-6 of the sum of all |x w| for 16,384 terms of one sign, mostly far less:

- on a GPU, those of half-precision operands: they are exact in float32, and tensor cores accumulate and return float32.
  A float32 operand is three bfloat16 ones that add up to it.
- on a CPU, those of float32 operands, unless a setting lets torch round them: then float64, which no setting rounds.
- of float64 operands anywhere: float64.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from model.hooks import has_hooks

HALF = (torch.bfloat16, torch.float16)


def has_tensor_cores(operand: Tensor) -> bool:
    """Returns whether `wide_product` works where the operand is."""
    return operand.is_cuda


def has_wide_products(operand: Tensor) -> bool:
    """Returns whether products of operands of this dtype are exact, and summed and returned in float32, there."""
    return has_tensor_cores(operand) and operand.dtype in HALF


def has_float32_products(operand: Tensor) -> bool:
    """Returns whether torch computes float32 products there as float32: on a CPU, unless a setting says otherwise.

    `torch.set_float32_matmul_precision` and `torch.backends` set it for oneDNN, on ARM an environment variable too.
    Compiled code cannot ask.
    """
    if has_tensor_cores(operand) or not operand.is_cpu or torch.compiler.is_compiling():
        return False
    onednn: Any = torch.backends.mkldnn
    return not onednn.is_acl_available() and onednn.matmul.fp32_precision in ("none", "ieee")


def wide_product(a_mk: Tensor, b_kn: Tensor) -> Tensor:
    """Returns `a @ b` of half-precision operands of one dtype in float32."""
    return torch.mm(a_mk, b_kn, out_dtype=torch.float32)


def exact_product(a_mk: Tensor, b_kn: Tensor) -> Tensor:
    """Returns `a @ b` in float32, in float64 where an operand is float64. It has no gradient."""
    wide = torch.promote_types(torch.promote_types(a_mk.dtype, b_kn.dtype), torch.float32)
    if wide == torch.float32 and has_float32_products(a_mk):
        out_mn = a_mk.new_empty(len(a_mk), b_kn.shape[1], dtype=wide)
        return torch.mm(a_mk.to(wide), b_kn.to(wide), out=out_mn)  # autocast leaves calls with `out` alone
    if wide == torch.float64 or not has_tensor_cores(a_mk):
        return (a_mk.double() @ b_kn.double()).to(wide)
    if a_mk.dtype == b_kn.dtype and a_mk.dtype in HALF:
        return wide_product(a_mk, b_kn)
    if torch.bfloat16 in (a_mk.dtype, b_kn.dtype):  # pieces one after the other: the product adds them up
        a_pieces, b_pieces = (_three_pieces(x, dim) for x, dim in ((a_mk, 1), (b_kn, 0)))
        return wide_product(a_pieces, b_pieces)
    products = wide_product(_three_pieces(a_mk, 0), _three_pieces(b_kn, 1))  # all pieces with all
    return products.view(3, len(a_mk), 3, -1).sum((0, 2))


def _three_pieces(x: Tensor, dim: int) -> Tensor:
    """Returns bfloat16 tensors whose sum is x to the last bit of float32, largest first, one after the other.

    A bfloat16 x is repeated instead, beside the pieces of what it is multiplied with.
    """
    if x.dtype == torch.bfloat16:
        return torch.cat((x, x, x), dim)
    x = x.float()
    if torch.compiler.is_compiling():  # the compiler refuses parts of a tensor as outputs, and needs no such help
        high = x.bfloat16()
        middle = (x - high).bfloat16()
        return torch.cat((high, middle, (x - high - middle).bfloat16()), dim)
    pieces = x.new_empty([3 * size if at == dim else size for at, size in enumerate(x.shape)], dtype=torch.bfloat16)
    high, middle, low = pieces.chunk(3, dim)  # eight bits of the 24 each
    high.copy_(x)
    rest = x - high
    middle.copy_(rest)
    torch.sub(rest, middle, out=low)
    return pieces


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


class _ExactGated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_nk: Tensor, gate_mk: Tensor, content_mk: Tensor) -> Tensor:
        gate, content = _two_products(x_nk, gate_mk, content_mk)
        ctx.save_for_backward(x_nk, gate_mk, content_mk, gate, content)
        return F.silu(gate) * content

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_nm: Tensor) -> tuple[Tensor | None, ...]:
        x_nk, gate_mk, content_mk, gate, content = ctx.saved_tensors
        gradients = torch.ops.aten.silu_backward(grad_nm * content, gate), grad_nm * F.silu(gate)
        grad_both = torch.cat([grad.to(x_nk.dtype) for grad in gradients], dim=1)
        needs_x, *needs_weights = ctx.needs_input_grad
        grad_x = exact_product(grad_both, torch.cat((gate_mk, content_mk))).to(x_nk.dtype) if needs_x else None
        if not any(needs_weights):
            return grad_x, None, None
        grad_gate, grad_content = exact_product(grad_both.t(), x_nk).to(gate_mk.dtype).chunk(2)
        return grad_x, grad_gate, grad_content


def _two_products(x_nk: Tensor, gate_mk: Tensor, content_mk: Tensor) -> tuple[Tensor, ...]:
    if has_tensor_cores(x_nk):
        return exact_product(x_nk, torch.cat((gate_mk, content_mk)).t()).chunk(2, dim=1)
    # On a CPU, silu of every other row of memory can differ in its last bit from silu of a tensor of its own.
    return tuple(exact_product(x_nk, weight_mk.t()) for weight_mk in (gate_mk, content_mk))


def exact_gated(x: Tensor, gate: nn.Module, content: nn.Module) -> Tensor:
    """Returns `silu(gate(x)) * content(x)`: of two `ExactLinear` without hooks by one product, forward and backward.

    Other modules are called one by one, and round as they do.
    """
    if not all(isinstance(module, ExactLinear) and not has_hooks(module) for module in (gate, content)):
        product: Tensor = F.silu(gate(x)) * content(x)
        return product
    y: Tensor = _ExactGated.apply(x.flatten(0, -2), gate.weight, content.weight)
    return y.unflatten(0, x.shape[:-1])
