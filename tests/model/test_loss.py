"""The chunked loss is cross entropy plus z-loss of all logits at once, in values, gradients and memory."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from model.loss import LMHead, LossSums
from tests.model.small import ROPE, built, small

Z_WEIGHT = 0.01  # large enough to be seen


def head(dtype: torch.dtype = torch.float32, chunk_rows: int = 5, vocab_size: int = 40) -> LMHead:
    torch.manual_seed(0)
    return LMHead(12, vocab_size, Z_WEIGHT, chunk_rows).to(dtype)


def hidden_and_labels(vocab_size: int = 40) -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    labels = torch.randint(vocab_size, (2, 9))
    labels[0, :4] = -100
    labels[1, 8] = -100
    return 3 * torch.randn(2, 9, 12), labels


def plain_sums(hidden: Tensor, weight: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    logits = hidden @ weight.T
    ce = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum")
    return ce, Z_WEIGHT * logits.logsumexp(-1)[labels != -100].square().sum()


@pytest.mark.parametrize("chunk_rows", [1, 5, 18, 1000])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-6), (torch.bfloat16, 1e-2)]
)
def test_sums_and_gradients_are_those_of_all_logits_at_once(
    chunk_rows: int, dtype: torch.dtype, tolerance: float
) -> None:
    lm_head = head(dtype, chunk_rows)
    hidden, labels = hidden_and_labels()
    hidden = hidden.to(dtype).requires_grad_()
    sums = lm_head(hidden, labels)
    (sums.total * 0.37).backward()

    hidden64, weight64 = (x.detach().double().requires_grad_() for x in (hidden, lm_head.weight))
    ce, z = plain_sums(hidden64, weight64, labels)
    ((ce + z) * 0.37).backward()
    assert sums.num_valid == 13
    for found, exact in ((sums.ce, ce), (sums.z, z), (sums.total, ce + z)):
        assert found.dtype == torch.promote_types(dtype, torch.float32)
        assert found.item() == pytest.approx(exact.item(), rel=min(tolerance, 1e-6))
    for gradient, wanted in ((hidden.grad, hidden64.grad), (lm_head.weight.grad, weight64.grad)):
        assert gradient is not None and wanted is not None and gradient.dtype == dtype
        assert (gradient.double() - wanted).norm() < tolerance * wanted.norm()


@pytest.mark.parametrize("chunk_rows", [1, 5, 18, 1000])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-6), (torch.bfloat16, 2e-6)]
)
def test_without_gradients_the_losses_of_each_token_are_there(
    chunk_rows: int, dtype: torch.dtype, tolerance: float
) -> None:
    lm_head = head(dtype, chunk_rows)
    hidden, labels = hidden_and_labels()
    hidden = hidden.to(dtype)
    with torch.no_grad():
        sums = lm_head(hidden, labels)
    logits = hidden.double() @ lm_head.weight.detach().double().T
    expected = F.cross_entropy(logits.transpose(1, 2), labels, reduction="none")
    assert sums.ce_bt.shape == labels.shape and sums.ce_bt.dtype == torch.promote_types(dtype, torch.float32)
    assert torch.equal(sums.ce_bt == 0, labels == -100)
    torch.testing.assert_close(sums.ce_bt.double(), expected, rtol=tolerance, atol=tolerance)
    assert sums.ce.item() == pytest.approx(sums.ce_bt.sum().item(), rel=1e-6)
    squares = logits.logsumexp(-1).square().masked_fill(labels == -100, 0)
    torch.testing.assert_close(sums.z_bt.double(), lm_head.z_loss_weight * squares, rtol=tolerance, atol=tolerance)
    assert sums.z.item() == pytest.approx(sums.z_bt.sum().item(), rel=1e-6)


def test_training_keeps_no_value_per_token() -> None:
    sums = head()(*hidden_and_labels())
    assert sums.total.requires_grad and sums.ce_bt is None and sums.z_bt is None
    detached = sums.detach()
    assert not detached.total.requires_grad and detached == sums


def test_rows_without_labels_have_no_loss_and_no_gradient() -> None:
    lm_head, (hidden, labels) = head(), hidden_and_labels()
    hidden.requires_grad_()
    sums = lm_head(hidden, torch.full_like(labels, -100))
    sums.total.backward()
    assert sums.total == sums.ce == sums.z == sums.num_valid == 0
    assert hidden.grad is not None and lm_head.weight.grad is not None
    assert hidden.grad.eq(0).all() and lm_head.weight.grad.eq(0).all()


def test_only_the_total_is_differentiable() -> None:
    sums = head()(*hidden_and_labels())
    assert sums.total.requires_grad and not sums.ce.requires_grad and not sums.z.requires_grad


def test_large_logits_do_not_overflow() -> None:
    hidden, labels = hidden_and_labels()
    assert head()(1e4 * hidden, labels).total.isfinite()


class Watch(TorchDispatchMode):
    """Counts the elements of the largest tensor made, the matrix products, and the steps of the logits' gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.largest = self.num_products = self.num_scatters = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.num_products += func is torch.ops.aten.mm.default
        self.num_scatters += func is torch.ops.aten.scatter_.src
        for tensor in out if isinstance(out, tuple) else (out,):
            if isinstance(tensor, Tensor):
                self.largest = max(self.largest, tensor.numel())
        return out


def test_no_tensor_is_larger_than_a_chunk_of_logits() -> None:
    lm_head = head(chunk_rows=16, vocab_size=500)
    hidden, labels = torch.randn(8, 16, 12, requires_grad=True), torch.randint(500, (8, 16))
    with Watch() as watch:
        lm_head(hidden, labels).total.backward()
    assert watch.largest == 16 * 500


def test_without_gradients_only_the_logits_are_computed() -> None:
    lm_head, (hidden, labels) = head(), hidden_and_labels()
    with torch.no_grad(), Watch() as watch:
        without = lm_head(hidden, labels)
    assert watch.num_products == 4 and watch.num_scatters == 0  # 18 rows in chunks of 5
    with Watch() as watch:
        trained = lm_head(hidden, labels)
    assert watch.num_products == 8 and watch.num_scatters == 4  # and the weight's gradient
    assert all(torch.equal(a, b) for a, b in zip(without[:4], trained[:4], strict=True))


def test_autocast_does_not_round_the_loss() -> None:
    lm_head, (hidden, labels) = head(), hidden_and_labels()
    with torch.autocast("cpu", torch.bfloat16):
        rounded = lm_head(hidden, labels)
    assert torch.equal(rounded.total, lm_head(hidden, labels).total)


def test_the_model_hands_labels_to_its_head() -> None:
    model = built(small(), ROPE, z_loss_weight=Z_WEIGHT)
    tokens = torch.randint(96, (2, 9))
    labels = tokens.roll(-1, 1)
    sums = model(tokens, labels=labels)
    assert isinstance(sums, LossSums)
    logits = model(tokens)
    exact = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum")
    torch.testing.assert_close(sums.ce, exact)
    torch.testing.assert_close(sums.total, exact + Z_WEIGHT * logits.logsumexp(-1).square().sum())
