"""Triton kernels for RMSNorm of q and k and their rotation by real positions; imported only where they run.

They compute what `model.norm_rotate.by_torch` does, rounded in the same places: the normalised values are rounded to
the dtype of the input before they rotate, and the gradient is rounded between rotation and norm. One program of the
forward pass takes the query and key heads of one token, so that q and k are read and written once. A program of the
backward pass takes every n-th token and adds up its part of the gradients of the norms' weights, in a fixed order.

Tiles are [key-value heads, query heads that share one, pairs]; sizes that are no powers of two are padded and masked.
"""

# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

NO_POSITIONS, BY_INDEX, BY_HEAD = 0, 1, 2  # no rotation; [T], one for all heads; [B, T, H_kv]


@triton.jit
def _cos_sin(z, f_hi, f_lo, factor):
    """Returns factor * cos(2 pi z f) and factor * sin(2 pi z f), f = f_hi + f_lo.

    Angles are counted in quarter turns. z * f_hi less the nearest integer is one fused multiply-add, which rounds once:
    the reduction is exact for |4 z f| < 2^22, and wider angles lose a bit per doubling.
    """
    near = tl.floor(z * f_hi * 4.0 + 0.5)  # any integer nearby will do
    rest = tl.fma(z * 4.0, f_hi, -near)
    rest = tl.fma(z * 4.0, f_lo, rest)
    again = tl.floor(rest + 0.5)
    angle = (rest - again) * 1.5707963267948966
    square = angle * angle
    sin = tl.fma(square, -1.9515295891e-4, 8.3321608736e-3)  # polynomials on [-pi/4, pi/4]
    sin = tl.fma(square, sin, -1.6666654611e-1)
    sin = tl.fma(angle * square, sin, angle)
    cos = tl.fma(square, 2.443315711809948e-5, -1.388731625493765e-3)
    cos = tl.fma(square, cos, 4.166664568298827e-2)
    cos = tl.fma(square * square, cos, tl.fma(square, -0.5, 1.0))
    near -= tl.floor(near * 0.25) * 4.0  # the quarter of the circle, found in floats: an int32 may be too narrow
    again -= tl.floor(again * 0.25) * 4.0
    quarter = near.to(tl.int32) + again.to(tl.int32)
    is_odd = (quarter & 1) != 0
    c = tl.where(is_odd, sin, cos)
    s = tl.where(is_odd, cos, sin)
    c = tl.where(((quarter + 1) & 2) != 0, -c, c)
    s = tl.where((quarter & 2) != 0, -s, s)
    return c * factor, s * factor


@triton.jit
def _angles(Z, TABLE, token, length, factor, MODE: tl.constexpr, HKV: tl.constexpr, P: tl.constexpr,
            HKV_PAD: tl.constexpr, P_PAD: tl.constexpr):  # fmt: skip
    """Returns cosine and sine, [HKV, 1, P] or, by index, [1, 1, P]."""
    pair = tl.arange(0, P_PAD)[None, None, :]
    f_hi = tl.load(TABLE + pair, mask=pair < P, other=0.0)
    f_lo = tl.load(TABLE + P + pair, mask=pair < P, other=0.0)
    if MODE == 1:
        z = tl.load(Z + token % length).to(tl.float32)
    else:
        head = tl.arange(0, HKV_PAD)[:, None, None]
        z = tl.load(Z + token * HKV + head, mask=head < HKV, other=0.0)
    return _cos_sin(z, f_hi, f_lo, factor)


@triton.jit
def _places(HKV: tl.constexpr, G: tl.constexpr, P: tl.constexpr, HKV_PAD: tl.constexpr, G_PAD: tl.constexpr,
            P_PAD: tl.constexpr):  # fmt: skip
    """Returns where the first of each pair lies within a token, [HKV, G, P], and the mask of those that exist."""
    head = tl.arange(0, HKV_PAD)[:, None, None]
    shared = tl.arange(0, G_PAD)[None, :, None]
    pair = tl.arange(0, P_PAD)[None, None, :]
    return (head * G + shared) * (2 * P) + pair, (head < HKV) & (shared < G) & (pair < P)


@triton.jit
def _pairs(X, at, mask, P: tl.constexpr):
    """Returns the two halves of each head in float32."""
    x1 = tl.load(X + at, mask=mask, other=0.0).to(tl.float32)
    x2 = tl.load(X + at + P, mask=mask, other=0.0).to(tl.float32)
    return x1, x2


@triton.jit
def _rounded(x, X):
    """Returns x as a tensor of X's dtype would hold it, in float32."""
    return x.to(X.dtype.element_ty).to(tl.float32)


@triton.jit
def _normalise_and_turn(X, W, OUT, SCALE, token, stride, cos, sin, eps, MODE: tl.constexpr, HKV: tl.constexpr,
                        G: tl.constexpr, P: tl.constexpr, HKV_PAD: tl.constexpr, G_PAD: tl.constexpr,
                        P_PAD: tl.constexpr):  # fmt: skip
    """Writes a token's normalised and rotated heads, and 1 / rms of what they are made of."""
    at, mask = _places(HKV, G, P, HKV_PAD, G_PAD, P_PAD)
    x1, x2 = _pairs(X + token * stride, at, mask, P)
    w1, w2 = _pairs(W, at, mask, P)
    scale = tl.rsqrt(tl.sum(x1 * x1 + x2 * x2) / (2 * HKV * G * P) + eps)
    tl.store(SCALE + token, scale)
    y1, y2 = _rounded(x1 * scale * w1, X), _rounded(x2 * scale * w2, X)
    if MODE != 0:
        y1, y2 = y1 * cos - y2 * sin, y2 * cos + y1 * sin
    OUT += token * (2 * HKV * G * P)
    tl.store(OUT + at, y1.to(OUT.dtype.element_ty), mask=mask)
    tl.store(OUT + at + P, y2.to(OUT.dtype.element_ty), mask=mask)


@triton.jit
def forward_kernel(Q, K, WQ, WK, Z, TABLE, Q_OUT, K_OUT, Q_SCALE, K_SCALE, q_stride, k_stride, length, eps, factor,
                   MODE: tl.constexpr, HKV: tl.constexpr, G: tl.constexpr, P: tl.constexpr, HKV_PAD: tl.constexpr,
                   G_PAD: tl.constexpr, P_PAD: tl.constexpr):  # fmt: skip
    """Normalises and rotates the heads of one token."""
    token = tl.program_id(0).to(tl.int64)
    cos, sin = 1.0, 0.0
    if MODE != 0:
        cos, sin = _angles(Z, TABLE, token, length, factor, MODE, HKV, P, HKV_PAD, P_PAD)
    _normalise_and_turn(Q, WQ, Q_OUT, Q_SCALE, token, q_stride, cos, sin, eps, MODE, HKV, G, P, HKV_PAD, G_PAD, P_PAD)
    _normalise_and_turn(K, WK, K_OUT, K_SCALE, token, k_stride, cos, sin, eps, MODE, HKV, 1, P, HKV_PAD, 1, P_PAD)


@triton.jit
def _backward_of_token(GRAD, X, W, DX, SCALE, TABLE, token, stride, cos, sin, MODE: tl.constexpr, WITH_DZ: tl.constexpr,
                       HKV: tl.constexpr, G: tl.constexpr, P: tl.constexpr, HKV_PAD: tl.constexpr,
                       G_PAD: tl.constexpr, P_PAD: tl.constexpr):  # fmt: skip
    """Writes dL/dx; returns what the token adds to the two halves of dL/dweight, and its part of dz, [HKV]."""
    at, mask = _places(HKV, G, P, HKV_PAD, G_PAD, P_PAD)
    x1, x2 = _pairs(X + token * stride, at, mask, P)
    w1, w2 = _pairs(W, at, mask, P)
    width: tl.constexpr = 2 * HKV * G * P
    g1, g2 = _pairs(GRAD + token * width, at, mask, P)
    scale = tl.load(SCALE + token)
    x1, x2 = x1 * scale, x2 * scale
    dz = tl.zeros((HKV_PAD,), tl.float32)
    if MODE != 0:
        if WITH_DZ:
            n1, n2 = _rounded(x1 * w1, X), _rounded(x2 * w2, X)
            y1, y2 = _rounded(n1 * cos - n2 * sin, X), _rounded(n2 * cos + n1 * sin, X)
            pair = tl.arange(0, P_PAD)[None, None, :]
            radians = tl.load(TABLE + 2 * P + pair, mask=pair < P, other=0.0)
            dz = tl.sum(tl.sum((g2 * y1 - g1 * y2) * radians, axis=2), axis=1)
        g1, g2 = _rounded(g1 * cos + g2 * sin, X), _rounded(g2 * cos - g1 * sin, X)
    dw1, dw2 = g1 * x1, g2 * x2
    g1, g2 = g1 * w1, g2 * w2
    mean = tl.sum(g1 * x1 + g2 * x2) / width
    DX += token * width
    tl.store(DX + at, ((g1 - x1 * mean) * scale).to(DX.dtype.element_ty), mask=mask)
    tl.store(DX + at + P, ((g2 - x2 * mean) * scale).to(DX.dtype.element_ty), mask=mask)
    return dw1, dw2, dz


@triton.jit
def backward_kernel(Q_GRAD, K_GRAD, Q, K, WQ, WK, Z, TABLE, Q_SCALE, K_SCALE, DQ, DK, DWQ, DWK, DZ, q_stride, k_stride,
                    length, num_tokens, factor, MODE: tl.constexpr, WITH_DZ: tl.constexpr, HKV: tl.constexpr,
                    G: tl.constexpr, P: tl.constexpr, HKV_PAD: tl.constexpr, G_PAD: tl.constexpr,
                    P_PAD: tl.constexpr):  # fmt: skip
    """Computes the gradients of every n-th token, and of the weights the part that comes from these tokens."""
    dwq1 = tl.zeros((HKV_PAD, G_PAD, P_PAD), tl.float32)
    dwq2 = tl.zeros((HKV_PAD, G_PAD, P_PAD), tl.float32)
    dwk1 = tl.zeros((HKV_PAD, 1, P_PAD), tl.float32)
    dwk2 = tl.zeros((HKV_PAD, 1, P_PAD), tl.float32)
    for number in range(tl.program_id(0), num_tokens, tl.num_programs(0)):
        token = tl.cast(number, tl.int64)
        cos, sin = 1.0, 0.0
        if MODE != 0:
            cos, sin = _angles(Z, TABLE, token, length, factor, MODE, HKV, P, HKV_PAD, P_PAD)
        dw1, dw2, dz = _backward_of_token(Q_GRAD, Q, WQ, DQ, Q_SCALE, TABLE, token, q_stride, cos, sin, MODE, WITH_DZ,
                                          HKV, G, P, HKV_PAD, G_PAD, P_PAD)  # fmt: skip
        dwq1 += dw1
        dwq2 += dw2
        dw1, dw2, dz_of_k = _backward_of_token(K_GRAD, K, WK, DK, K_SCALE, TABLE, token, k_stride, cos, sin, MODE,
                                               WITH_DZ, HKV, 1, P, HKV_PAD, 1, P_PAD)  # fmt: skip
        dwk1 += dw1
        dwk2 += dw2
        if WITH_DZ:
            head = tl.arange(0, HKV_PAD)
            tl.store(DZ + token * HKV + head, dz + dz_of_k, mask=head < HKV)
    program = tl.program_id(0).to(tl.int64)
    at, mask = _places(HKV, G, P, HKV_PAD, G_PAD, P_PAD)
    tl.store(DWQ + program * (2 * HKV * G * P) + at, dwq1, mask=mask)
    tl.store(DWQ + program * (2 * HKV * G * P) + at + P, dwq2, mask=mask)
    at, mask = _places(HKV, 1, P, HKV_PAD, 1, P_PAD)
    tl.store(DWK + program * (2 * HKV * P) + at, dwk1, mask=mask)
    tl.store(DWK + program * (2 * HKV * P) + at + P, dwk2, mask=mask)


class Sizes(NamedTuple):
    """The sizes that a kernel is compiled for."""

    num_kv_heads: int
    num_shared: int
    """Query heads per key-value head."""
    num_pairs: int
    """Half the width of a head."""

    def constants(self) -> dict[str, int]:
        """Returns the kernels' constants of these names."""
        exact = {"HKV": self.num_kv_heads, "G": self.num_shared, "P": self.num_pairs}
        return exact | {f"{name}_PAD": triton.next_power_of_2(size) for name, size in exact.items()}

    def num_warps(self, pairs_per_thread: int) -> int:
        """Returns the warps of a program whose threads have so many pairs of queries; at least 4 and at most 16."""
        padded = self.constants()
        return min(max(padded["HKV_PAD"] * padded["G_PAD"] * padded["P_PAD"] // (32 * pairs_per_thread), 4), 16)


FORWARD_PAIRS, BACKWARD_PAIRS = 8, 4  # per thread: the backward kernel has twice as many values of each in registers
PROGRAMS_PER_PROCESSOR = 4  # of the backward kernel; each adds a row to the partial gradients of the weights
OPTIONS = {"enable_fp_fusion": True}  # Triton's default differs between versions


def forward(
    q_nd: Tensor, k_nd: Tensor, q_weight: Tensor, k_weight: Tensor, positions: Tensor | None, table: Tensor,
    length: int, eps: float, factor: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Returns q and k normalised and rotated, and 1 / rms of each token's q and k, float32."""
    sizes, mode = _sizes(q_nd, k_nd, table), _mode(positions)
    q_out, k_out = (torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in (q_nd, k_nd))
    q_scale, k_scale = (torch.empty(len(x), dtype=torch.float32, device=x.device) for x in (q_nd, k_nd))
    forward_kernel[(len(q_nd),)](
        q_nd, k_nd, q_weight, k_weight, _given(positions, table), table, q_out, k_out, q_scale, k_scale,
        q_nd.stride(0), k_nd.stride(0), length, eps, factor,
        MODE=mode, **sizes.constants(),
        num_warps=sizes.num_warps(FORWARD_PAIRS), **OPTIONS,
    )  # fmt: skip
    return q_out, k_out, q_scale, k_scale


def backward(
    q_grad: Tensor, k_grad: Tensor, q_nd: Tensor, k_nd: Tensor, q_weight: Tensor, k_weight: Tensor,
    positions: Tensor | None, table: Tensor, q_scale: Tensor, k_scale: Tensor, length: int, factor: float,
    with_dz: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Returns the gradients of q, k and the weights, and with `with_dz` that of the positions, else an empty tensor."""
    sizes, device = _sizes(q_nd, k_nd, table), q_nd.device
    dq, dk = torch.empty_like(q_grad), torch.empty_like(k_grad)
    num_programs = min(PROGRAMS_PER_PROCESSOR * _num_processors(device), len(q_nd))
    dwq, dwk = (torch.empty((num_programs, x.shape[1]), dtype=torch.float32, device=device) for x in (q_nd, k_nd))
    dz = torch.empty((len(q_nd), sizes.num_kv_heads) if with_dz else 0, dtype=torch.float32, device=device)
    backward_kernel[(num_programs,)](
        q_grad, k_grad, q_nd, k_nd, q_weight, k_weight, _given(positions, table), table, q_scale, k_scale,
        dq, dk, dwq, dwk, dz, q_nd.stride(0), k_nd.stride(0), length, len(q_nd), factor,
        MODE=_mode(positions), WITH_DZ=with_dz, **sizes.constants(),
        num_warps=sizes.num_warps(BACKWARD_PAIRS), **OPTIONS,
    )  # fmt: skip
    return dq, dk, dwq.sum(0).to(q_weight.dtype), dwk.sum(0).to(k_weight.dtype), dz


def _sizes(q_nd: Tensor, k_nd: Tensor, table: Tensor) -> Sizes:
    num_pairs = table.shape[1]
    return Sizes(k_nd.shape[1] // (2 * num_pairs), q_nd.shape[1] // k_nd.shape[1], num_pairs)


def _mode(positions: Tensor | None) -> int:
    if positions is None:
        return NO_POSITIONS
    return BY_INDEX if positions.ndim == 1 else BY_HEAD


def _given(positions: Tensor | None, other: Tensor) -> Tensor:
    return other if positions is None else positions  # a pointer that is never read


def _num_processors(device: torch.device) -> int:
    if device.type != "cuda":  # Triton's interpreter: any number; this one makes several tokens share a program
        return 1
    properties: Any = torch.cuda.get_device_properties(device)
    return int(properties.multi_processor_count)
