"""Exact products keep their bounds whatever the precision switches say."""

from collections.abc import Iterator

import pytest
import torch

from model.exact import ExactLinear, exact_product


@pytest.fixture(params=["highest", "high", "medium"])
def matmul_precision(request: pytest.FixtureRequest) -> Iterator[str]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(request.param)
    yield request.param
    torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_no_switch_rounds_the_map_or_its_gradients(matmul_precision: str, autocast: bool, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    linear = ExactLinear(40, 24).to(dtype)
    x = torch.randn(2, 5, 40, dtype=dtype, requires_grad=True)
    grad = torch.randn(2, 5, 24).to(dtype).float()  # exact in dtype: what is left is the products' own error
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        y = linear(x)
    y.backward(grad)

    x64, w64 = x.detach().double(), linear.weight.detach().double()
    assert y.dtype == torch.float32
    assert linear.weight.grad is not None and x.grad is not None
    torch.testing.assert_close(y, (x64 @ w64.T).float(), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(x.grad, (grad.double() @ w64).to(dtype), rtol=1e-6, atol=1e-6)
    weight_grad = torch.einsum("btm,btk->mk", grad.double(), x64).to(dtype)
    torch.testing.assert_close(linear.weight.grad, weight_grad, rtol=1e-6, atol=1e-6)


def test_a_float64_map_stays_float64() -> None:
    linear = ExactLinear(6, 3).double()
    x = torch.randn(4, 6, dtype=torch.float64, requires_grad=True)
    assert linear(x).dtype == torch.float64
    assert torch.autograd.gradcheck(linear, x)


@pytest.mark.gpu
def test_tensor_cores_return_float32() -> None:
    a, b = (torch.randn(256, 256, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    exact = (a.double() @ b.double()).float()
    torch.testing.assert_close(exact_product(a, b), exact, rtol=1e-5, atol=1e-4)
