"""The language model head with its loss: cross entropy plus z-loss, without ever holding the logits.

    total = sum over valid labels of  (lse - logit[label]) + z_loss_weight * lse^2,    lse = logsumexp(logits)

At 100,352 words the float32 logits of eight rows of 4,096 would take 12 GB, their gradient as much. Rows are therefore
taken a chunk at a time, and since the loss is the end of the graph, the gradient of each chunk is known while its
logits are at hand: it is folded into dL/dhidden and dL/dweight at once, and the backward pass only scales.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

IGNORED = -100  # a label that takes no part


class LossSums(NamedTuple):
    """Sums over the valid labels of a micro-batch, in nats: divide by the valid labels of the whole batch."""

    total: Tensor  # float32 scalar, ce + z: the one that is differentiable
    ce: Tensor  # float32 scalar, cross entropy alone
    z: Tensor  # float32 scalar, z_loss_weight * lse^2
    num_valid: Tensor  # int64 scalar


class LMHead(nn.Linear):
    """Hidden states to logits, or straight to the loss. It holds its own product, so that ZeRO-3 sees it coming."""

    def __init__(self, hidden_size: int, vocab_size: int, z_loss_weight: float, chunk_rows: int) -> None:
        super().__init__(hidden_size, vocab_size, bias=False)
        self.z_loss_weight = z_loss_weight
        self.chunk_rows = chunk_rows

    def forward(self, h_btd: Tensor, labels_bt: Tensor | None = None) -> Tensor | LossSums:  # type: ignore[override]
        """Without labels, logits [B, T, V]; with int64 labels (already shifted; -100 is ignored), their LossSums."""
        if labels_bt is None:
            return F.linear(h_btd, self.weight)
        labels = labels_bt.flatten()
        hidden = h_btd.flatten(0, 1).to(self.weight.dtype)
        with torch.autocast(hidden.device.type, enabled=False):
            total, ce, z = _ChunkedLoss.apply(
                hidden, self.weight, labels, self.z_loss_weight, self.chunk_rows, torch.is_grad_enabled()
            )
        return LossSums(total, ce, z, (labels != IGNORED).sum())


class _ChunkedLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_nd: Tensor,
        weight_vd: Tensor,
        labels_n: Tensor,
        z_weight: float,
        chunk_rows: int,
        grad_enabled: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        wide = torch.promote_types(hidden_nd.dtype, torch.float32)
        needs_hidden, needs_weight = (grad_enabled and needed for needed in ctx.needs_input_grad[:2])
        grad_hidden = torch.empty_like(hidden_nd, dtype=wide) if needs_hidden else None
        grad_weight = torch.zeros_like(weight_vd, dtype=wide) if needs_weight else None
        ce, z = hidden_nd.new_zeros(2, dtype=wide).unbind()
        for start in range(0, len(labels_n), chunk_rows):
            rows = slice(start, start + chunk_rows)
            logits_rv = _product(hidden_nd[rows], weight_vd.t())
            chunk_ce, chunk_z, grad_rv = _loss_and_gradient(logits_rv, labels_n[rows], z_weight)
            ce, z = ce + chunk_ce, z + chunk_z
            grad_rv = grad_rv.to(weight_vd.dtype)
            if grad_hidden is not None:
                grad_hidden[rows] = _product(grad_rv, weight_vd)
            if grad_weight is not None:
                grad_weight += _product(grad_rv.t(), hidden_nd[rows])
        ctx.save_for_backward(grad_hidden, grad_weight)
        ctx.dtypes = hidden_nd.dtype, weight_vd.dtype
        ctx.mark_non_differentiable(ce, z)
        return ce + z, ce, z

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_total: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        scaled = (
            None if grad is None else (grad * grad_total).to(dtype)
            for grad, dtype in zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        )
        return *scaled, None, None, None, None


def _loss_and_gradient(logits_rv: Tensor, labels_r: Tensor, z_weight: float) -> tuple[Tensor, Tensor, Tensor]:
    """Sums of cross entropy and z-loss, and the gradient of their total; the logits' own memory becomes the gradient.

    d total / d logits = softmax * (1 + 2 z_weight lse) - one_hot(label), and 0 in rows without a valid label. Such
    rows are masked, not dropped: to know how many there are, the host would have to wait for the device.
    """
    ignored = labels_r == IGNORED
    target = labels_r.masked_fill(ignored, 0).unsqueeze(1)
    target_logit = logits_rv.gather(1, target).squeeze(1)
    peak = logits_rv.amax(dim=1)
    powers_rv = logits_rv.sub_(peak.unsqueeze(1)).exp_()
    mass = powers_rv.sum(dim=1)
    lse = peak + mass.log()
    ce = (lse - target_logit).masked_fill(ignored, 0).sum()
    z = z_weight * lse.square().masked_fill(ignored, 0).sum()
    softmax_scale = ((1 + 2 * z_weight * lse) / mass).masked_fill(ignored, 0)
    grad_rv = powers_rv.mul_(softmax_scale.unsqueeze(1))
    grad_rv.scatter_add_(1, target, ignored.to(grad_rv.dtype).sub(1).unsqueeze(1))
    return ce, z, grad_rv


def _product(a_mk: Tensor, b_kn: Tensor) -> Tensor:
    """`a @ b` in float32 or wider, without a float32 copy of half-precision operands where the device can."""
    if a_mk.is_cuda and a_mk.dtype in (torch.bfloat16, torch.float16):
        return torch.mm(a_mk, b_kn, out_dtype=torch.float32)
    wide = torch.promote_types(a_mk.dtype, torch.float32)
    return a_mk.to(wide) @ b_kn.to(wide)
