"""RMSNorm of q and k over their full width, then their rotation by the positions of the layer.

`by_torch` defines it, and computes it on a CPU. On a GPU a Triton kernel does the same in one pass over memory forward
and one backward (model/rotary_kernel.py), as an operator that torch.compile keeps whole. It rounds where `by_torch`
does, and needs no float64.
"""

import importlib.util
import logging
from typing import Any

import torch
from torch import Tensor, nn

from model.config import Kernel, ModelConfig, NormPrecision, PositionPrecision, PositionsConfig
from model.errors import require
from model.hooks import has_hooks
from model.rotary import Frequencies, rotate

logger = logging.getLogger(__name__)

DTYPES = (torch.bfloat16, torch.float16, torch.float32)


def resolve_kernel(kernel: Kernel, norm_precision: NormPrecision, position_precision: PositionPrecision) -> Kernel:
    """Returns `kernel`, or torch for `auto` in `reference` precision, which the Triton kernel does not compute.

    Raises ModelError if the Triton kernel is asked for and cannot be had. Without a GPU nothing asks for it.
    """
    settings = (("model.norm_precision", norm_precision), ("positions.precision", position_precision))
    rounds = [f"{key}=reference" for key, value in settings if value.value == "reference"]
    if kernel is Kernel.triton:
        require(not rounds, f"model.kernel=triton does not compute {' and '.join(rounds)}; choose torch or auto")
        require(
            not torch.cuda.is_available() or importlib.util.find_spec("triton") is not None,
            "model.kernel=triton needs the triton package, which comes with PyTorch for CUDA; choose torch or auto",
        )
    return Kernel.torch if rounds else kernel


def normalise_and_rotate(
    q_btd: Tensor,
    k_btd: Tensor,
    q_norm: nn.RMSNorm,
    k_norm: nn.RMSNorm,
    positions: Tensor | None,
    table: Frequencies,
    kernel: Kernel,
    index_t: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Returns q [B, T, H, D] and k [B, T, H_kv, D], normalised and rotated by `kernel`, a resolved one.

    With `index_t` [T], `positions` are deviations from it. What only PyTorch computes takes `by_torch`: these, other
    devices, float64, and norms that have hooks (under ZeRO 3 all modules have them, and gather their weights in them).
    """
    fits = _is_on_gpu(q_btd) and q_btd.dtype in DTYPES and not has_hooks(q_norm) and not has_hooks(k_norm)
    if kernel is Kernel.torch or not fits or index_t is not None:
        return by_torch(q_btd, k_btd, q_norm, k_norm, positions, table, index_t)
    if kernel is Kernel.auto and not kernel_works(q_btd.shape[-1], k_btd.shape[-1], table.num_pairs, q_btd.dtype):
        return by_torch(q_btd, k_btd, q_norm, k_norm, positions, table)
    return by_triton(q_btd, k_btd, q_norm, k_norm, positions, table)


def _is_on_gpu(x: Tensor) -> bool:
    return x.is_cuda


_found: dict[tuple[Any, ...], bool] = {}


def kernel_works(width: int, kv_width: int, num_pairs: int, dtype: torch.dtype) -> bool:
    """Returns whether the kernel compiles, runs, and agrees with `by_torch` on this device; says so once.

    It is to run, not to be traced: whoever compiles a model calls `torch.compiler.assume_constant_result(kernel_works)`
    first. As a decorator here it would load torch's compiler, which takes two seconds, wherever a model is imported.
    """
    sizes = (width, kv_width, num_pairs, dtype)
    if sizes not in _found:
        try:
            _compare(*sizes)
        except Exception as error:  # of Triton, its C compiler or the driver: none may stop a run that needs no kernel
            reason = f"{type(error).__name__}: {error}".partition("\n")[0]
            logger.warning("queries and keys are normalised and rotated by PyTorch, since Triton cannot: %s", reason)
            _found[sizes] = False
        else:
            logger.info("queries and keys are normalised and rotated by one Triton kernel")
            _found[sizes] = True
    return _found[sizes]


def _compare(width: int, kv_width: int, num_pairs: int, dtype: torch.dtype) -> None:
    """Runs both ways, forward and backward. Raises whatever they raise, or AssertionError where they differ."""
    device = torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
    head_dim = 2 * num_pairs
    config = ModelConfig(hidden_size=width, num_heads=width // head_dim, num_kv_heads=kv_width // head_dim)
    table = Frequencies(config, PositionsConfig())
    generator = torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(device, dtype)

    with torch.inference_mode(False), torch.enable_grad():
        q, k = drawn(1, 2, width).requires_grad_(), drawn(1, 2, kv_width).requires_grad_()
        z = torch.randn((1, 2, kv_width // head_dim), generator=generator).to(device).requires_grad_()
        q_norm, k_norm = (nn.RMSNorm(size, eps=1e-6, device=device, dtype=dtype) for size in (width, kv_width))
        leaves = [q, k, z, q_norm.weight, k_norm.weight]
        gradients = drawn(1, 2, width // head_dim, head_dim), drawn(1, 2, kv_width // head_dim, head_dim)
        results = []
        for way in (by_torch, by_triton):
            out = way(q, k, q_norm, k_norm, z, table)
            results.append([x.detach() for x in (*out, *torch.autograd.grad(out, leaves, gradients))])
        for expected, found in zip(*results, strict=True):
            torch.testing.assert_close(found, expected, rtol=0.05, atol=0.05 * float(expected.abs().max()))


def by_torch(
    q_btd: Tensor,
    k_btd: Tensor,
    q_norm: nn.Module,
    k_norm: nn.Module,
    positions: Tensor | None,
    table: Frequencies,
    index_t: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Returns q [B, T, H, D] and k [B, T, H_kv, D], normalised and rotated; `positions` as `Positions` returns them."""
    width = 2 * table.num_pairs
    q_bthd, k_bthd = q_norm(q_btd).unflatten(-1, (-1, width)), k_norm(k_btd).unflatten(-1, (-1, width))
    return (q_bthd, k_bthd) if positions is None else rotate(q_bthd, k_bthd, positions, table, index_t)


def by_triton(
    q_btd: Tensor, k_btd: Tensor, q_norm: nn.RMSNorm, k_norm: nn.RMSNorm, positions: Tensor | None, table: Frequencies
) -> tuple[Tensor, Tensor]:
    """Returns what `by_torch` returns, for float32 or half precision and norms that round once."""
    q_out, k_out, _, _ = norm_rotate(
        q_btd, k_btd, q_norm.weight, k_norm.weight, positions, table.split(q_btd.device), q_norm.eps or 0.0,
        table.attention_factor,
    )  # fmt: skip
    width = 2 * table.num_pairs
    return q_out.unflatten(-1, (-1, width)), k_out.unflatten(-1, (-1, width))


@torch.library.custom_op("repo_cpt::norm_rotate", mutates_args=())
def norm_rotate(
    q_btd: Tensor, k_btd: Tensor, q_weight: Tensor, k_weight: Tensor, positions: Tensor | None, table: Tensor,
    eps: float, factor: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Returns q and k normalised and rotated, in their shapes, and 1 / rms of each token's, float32 [B * T].

    `table` is `Frequencies.split`.
    """
    from model import rotary_kernel  # not at the top: Triton is absent where PyTorch is built for CPUs

    q_out, k_out, q_scale, k_scale = rotary_kernel.forward(
        _rows(q_btd), _rows(k_btd), q_weight, k_weight, _readable(positions), table, q_btd.shape[1], eps, factor
    )
    return q_out.view(q_btd.shape), k_out.view(k_btd.shape), q_scale, k_scale


@norm_rotate.register_fake
def _(
    q_btd: Tensor, k_btd: Tensor, q_weight: Tensor, k_weight: Tensor, positions: Tensor | None, table: Tensor,
    eps: float, factor: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    q_scale, k_scale = (x.new_empty(x.shape[0] * x.shape[1], dtype=torch.float32) for x in (q_btd, k_btd))
    return q_btd.new_empty(q_btd.shape), k_btd.new_empty(k_btd.shape), q_scale, k_scale


@torch.library.custom_op("repo_cpt::norm_rotate_backward", mutates_args=())
def norm_rotate_backward(
    q_grad: Tensor, k_grad: Tensor, q_btd: Tensor, k_btd: Tensor, q_weight: Tensor, k_weight: Tensor,
    positions: Tensor | None, table: Tensor, q_scale: Tensor, k_scale: Tensor, factor: float, with_dz: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Returns the gradients of q, k, their weights and the positions; without `with_dz` the last one is empty."""
    from model import rotary_kernel

    dq, dk, dwq, dwk, dz = rotary_kernel.backward(
        _rows(q_grad.contiguous()), _rows(k_grad.contiguous()), _rows(q_btd), _rows(k_btd), q_weight, k_weight,
        _readable(positions), table, q_scale, k_scale, q_btd.shape[1], factor, with_dz,
    )  # fmt: skip
    if with_dz:
        assert positions is not None
        dz = dz.view(positions.shape).to(positions.dtype)
    return dq.view(q_btd.shape), dk.view(k_btd.shape), dwq, dwk, dz


@norm_rotate_backward.register_fake
def _(
    q_grad: Tensor, k_grad: Tensor, q_btd: Tensor, k_btd: Tensor, q_weight: Tensor, k_weight: Tensor,
    positions: Tensor | None, table: Tensor, q_scale: Tensor, k_scale: Tensor, factor: float, with_dz: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    empty = q_scale.new_empty(0) if positions is None or not with_dz else positions.new_empty(positions.shape)
    dq, dk, dwq, dwk = (x.new_empty(x.shape) for x in (q_btd, k_btd, q_weight, k_weight))
    return dq, dk, dwq, dwk, empty


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    q_btd, k_btd, q_weight, k_weight, positions, table, _, factor = inputs
    ctx.set_materialize_grads(False)  # the scales have none
    ctx.save_for_backward(q_btd, k_btd, q_weight, k_weight, positions, table, *output[2:])
    ctx.factor = factor


def _backward(ctx: Any, q_grad: Tensor | None, k_grad: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
    q_btd, k_btd, q_weight, k_weight, positions, table, q_scale, k_scale = ctx.saved_tensors
    q_grad = torch.zeros_like(q_btd) if q_grad is None else q_grad
    k_grad = torch.zeros_like(k_btd) if k_grad is None else k_grad
    with_dz = bool(ctx.needs_input_grad[4])
    dq, dk, dwq, dwk, dz = norm_rotate_backward(
        q_grad, k_grad, q_btd, k_btd, q_weight, k_weight, positions, table, q_scale, k_scale, ctx.factor, with_dz
    )
    return dq, dk, dwq, dwk, dz if with_dz else None, None, None, None


norm_rotate.register_autograd(_backward, setup_context=_keep)


def _rows(x_btd: Tensor) -> Tensor:
    """Returns x as [B * T, D] with neighbours in memory; a copy only where no view does it."""
    rows = x_btd.flatten(0, 1)
    return rows if rows.stride(1) == 1 else rows.contiguous()


def _readable(positions: Tensor | None) -> Tensor | None:
    """Returns positions as the kernel reads them: integers or float32, next to one another."""
    if positions is None:
        return None
    return (positions.float() if positions.is_floating_point() or positions.ndim == 3 else positions).contiguous()
