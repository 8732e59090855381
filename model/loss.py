"""The language model head with its loss: cross entropy plus z-loss, without ever holding all logits.

    total = sum over valid labels of  (lse - logit[label]) + z_loss_weight * lse^2,    lse = logsumexp(logits)

With a vocabulary of 100,352, the float32 logits of eight rows of 4,096 tokens would take 12 GB, and their gradient as
much. Tokens are therefore taken a chunk at a time. The loss is the end of the graph, so the gradient of a chunk is
known while its logits are in memory: it is multiplied into dL/dhidden and dL/dweight at once, and the backward pass
only scales these two. In half precision the gradients of a few chunks are kept for one product into dL/dweight, whose
float32 sum would otherwise be read and written for each chunk.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from model import exact
from model.activations import CHUNKS_PER_PRODUCT

IGNORED = -100  # the label of a token that does not count


class LossSums(NamedTuple):
    """Sums over the valid labels of a micro-batch, in nats: divide by the valid labels of the whole batch."""

    total: Tensor  # float32 scalar, ce + z: the only one with a gradient
    ce: Tensor  # float32 scalar, cross entropy alone
    z: Tensor  # float32 scalar, z_loss_weight * lse^2
    num_valid: Tensor  # int64 scalar
    ce_bt: Tensor | None = None  # float32 [B, T], cross entropy of each label, 0 where ignored; None with gradients on
    z_bt: Tensor | None = None  # the same of the z-loss

    def detach(self) -> "LossSums":
        """Returns the same values outside of the autograd graph."""
        return self._replace(total=self.total.detach(), ce=self.ce.detach(), z=self.z.detach())


class LMHead(nn.Linear):
    """Hidden states to logits, or to the loss. The product with its weight is in its own forward, as ZeRO 3 needs."""

    def __init__(self, hidden_size: int, vocab_size: int, z_loss_weight: float, chunk_rows: int) -> None:
        super().__init__(hidden_size, vocab_size, bias=False)
        self.z_loss_weight = z_loss_weight
        self.chunk_rows = chunk_rows  # tokens whose logits are in memory at once

    def forward(self, h_btd: Tensor, labels_bt: Tensor | None = None) -> Tensor | LossSums:  # type: ignore[override]
        """Returns logits [B, T, V]; with int64 labels (already shifted; -100 is ignored), their LossSums.

        `ce_bt` and `z_bt` are filled when gradients are off (`torch.no_grad`): training keeps no such tensors.
        """
        if labels_bt is None:
            return F.linear(h_btd, self.weight)
        labels = labels_bt.flatten()
        hidden = h_btd.flatten(0, 1).to(self.weight.dtype)
        with torch.autocast(hidden.device.type, enabled=False):
            total, ce, z, *by_label = _ChunkedLoss.apply(
                hidden, self.weight, labels, self.z_loss_weight, self.chunk_rows, torch.is_grad_enabled()
            )
        ce_bt, z_bt = (None if each_n is None else each_n.view_as(labels_bt) for each_n in by_label)
        return LossSums(total, ce, z, (labels != IGNORED).sum(), ce_bt, z_bt)


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
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor | None]:
        wide = torch.promote_types(hidden_nd.dtype, torch.float32)
        needs_hidden, needs_weight = (grad_enabled and needed for needed in ctx.needs_input_grad[:2])
        grad_hidden = torch.empty_like(hidden_nd, dtype=wide) if needs_hidden else None
        grad_weight: Tensor | None = None
        ce_n, z_n = (None if grad_enabled else torch.empty_like(labels_n, dtype=wide) for _ in range(2))
        ce, z = hidden_nd.new_zeros(2, dtype=wide).unbind()
        product_rows = chunk_rows if weight_vd.dtype == wide else CHUNKS_PER_PRODUCT * chunk_rows
        kept_rv: Tensor | None = None  # gradients of logits for the next product, where they have memory of their own
        if weight_vd.dtype != wide and (needs_hidden or needs_weight):
            kept_rv = weight_vd.new_empty(min(product_rows, len(labels_n)), len(weight_vd))
        for start in range(0, len(labels_n), chunk_rows):
            rows = slice(start, min(start + chunk_rows, len(labels_n)))
            chunk = _chunk_loss(_product(hidden_nd[rows], weight_vd.t()), labels_n[rows])
            ce, z = ce + chunk.ce_r.sum(), z + z_weight * chunk.square_r.sum()
            if ce_n is not None and z_n is not None:
                ce_n[rows], z_n[rows] = chunk.ce_r, z_weight * chunk.square_r
            if not (needs_hidden or needs_weight):
                continue
            first = start - start % product_rows
            own_rv = None if kept_rv is None else kept_rv[start - first : rows.stop - first]
            grad_rv = _chunk_gradient(chunk, z_weight, own_rv)
            if grad_hidden is not None:
                grad_hidden[rows] = _product(grad_rv, weight_vd)
            if needs_weight and rows.stop in (first + product_rows, len(labels_n)):
                all_rv = grad_rv if kept_rv is None else kept_rv[: rows.stop - first]
                product_vd = _product(all_rv.t(), hidden_nd[first : rows.stop])
                grad_weight = product_vd if grad_weight is None else grad_weight.add_(product_vd)
        ctx.save_for_backward(grad_hidden, grad_weight)
        ctx.dtypes = hidden_nd.dtype, weight_vd.dtype
        ctx.mark_non_differentiable(ce, z)
        return ce + z, ce, z, ce_n, z_n

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_total: Tensor, *_: Tensor | None) -> tuple[Tensor | None, ...]:
        scaled = (
            None if grad is None else torch.mul(grad, grad_total, out=torch.empty_like(grad, dtype=dtype))
            for grad, dtype in zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        )
        return *scaled, None, None, None, None


class _ChunkLoss(NamedTuple):
    """The losses of a chunk, and what its gradient is made of."""

    ce_r: Tensor  # cross entropy of each token, 0 where ignored
    square_r: Tensor  # lse^2 of each token, 0 where ignored
    lse_r: Tensor
    powers_rv: Tensor  # exp(logits - their maximum), in the logits' own memory
    mass_r: Tensor  # sum of the powers: softmax = powers / mass
    target_r1: Tensor  # the labels as columns, any valid one where ignored
    ignored_r: Tensor  # bool


def _chunk_loss(logits_rv: Tensor, labels_r: Tensor) -> _ChunkLoss:
    """Computes the losses of a chunk, and overwrites its logits.

    Ignored tokens are masked, not dropped: to know how many there are, the host would have to wait for the device.
    """
    ignored = labels_r == IGNORED
    target = labels_r.masked_fill(ignored, 0).unsqueeze(1)
    target_logit = logits_rv.gather(1, target).squeeze(1)
    peak = logits_rv.amax(dim=1)
    powers_rv = logits_rv.sub_(peak.unsqueeze(1)).exp_()
    mass = powers_rv.sum(dim=1)
    lse = peak + mass.log()
    ce_r = (lse - target_logit).masked_fill(ignored, 0)
    square_r = lse.square().masked_fill(ignored, 0)
    return _ChunkLoss(ce_r, square_r, lse, powers_rv, mass, target, ignored)


def _chunk_gradient(chunk: _ChunkLoss, z_weight: float, out_rv: Tensor | None) -> Tensor:
    """Returns d total / d logits [R, V] in `out_rv`, computed in the powers' dtype and rounded once.

    Overwrites the powers where `out_rv` is None.

    It is softmax * (1 + 2 z_weight lse) - one_hot(label), and 0 where the label is ignored.
    """
    softmax_scale = ((1 + 2 * z_weight * chunk.lse_r) / chunk.mass_r).masked_fill(chunk.ignored_r, 0).unsqueeze(1)
    target_r1 = chunk.powers_rv.gather(1, chunk.target_r1) * softmax_scale
    target_r1 += chunk.ignored_r.to(target_r1.dtype).sub(1).unsqueeze(1)
    powers_rv = chunk.powers_rv
    grad_rv = powers_rv if out_rv is None else out_rv
    torch.mul(powers_rv, softmax_scale, out=grad_rv)
    return grad_rv.scatter_(1, chunk.target_r1, target_r1.to(grad_rv.dtype))


def _product(a_mk: Tensor, b_kn: Tensor) -> Tensor:
    """Returns `a @ b` in float32 or wider, without a float32 copy of half-precision operands where the device can."""
    if exact.has_wide_products(a_mk):
        return torch.mm(a_mk, b_kn, out_dtype=torch.float32)
    wide = torch.promote_types(a_mk.dtype, torch.float32)
    return a_mk.to(wide) @ b_kn.to(wide)
