"""Exact products keep their bounds whatever the precision switches say."""

from collections.abc import Iterator
from operator import attrgetter
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from model import exact
from model.exact import ExactLinear, exact_gated, exact_product


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


class _Products(TorchDispatchMode):
    """Notes the dtype of the operands of each matrix product."""

    def __init__(self) -> None:
        super().__init__()
        self.dtypes: set[torch.dtype] = set()

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if operator.overloadpacket is torch.ops.aten.mm:
            self.dtypes |= {args[0].dtype, args[1].dtype}
        return operator(*args, **(kwargs or {}))


def dtypes_of_products() -> set[torch.dtype]:
    gate, content, final = ExactLinear(8, 4), ExactLinear(8, 4), ExactLinear(4, 2)
    with _Products() as products, torch.autocast("cpu", torch.bfloat16):
        final(exact_gated(torch.randn(6, 8, requires_grad=True), gate, content)).sum().backward()
    return products.dtypes


def test_products_are_float32_where_no_setting_rounds_them(matmul_precision: str) -> None:
    assert dtypes_of_products() == {torch.float32 if matmul_precision == "highest" else torch.float64}


@pytest.mark.parametrize("of", ["mkldnn.matmul", "mkldnn", ""])
def test_the_settings_of_a_backend_count_too(of: str) -> None:
    backend = attrgetter(f"backends.{of}".rstrip("."))(torch)
    try:
        for precision, expected in (("bf16", torch.float64), ("ieee", torch.float32), ("tf32", torch.float64)):
            backend.fp32_precision = precision
            assert dtypes_of_products() == {expected}
    finally:
        backend.fp32_precision = "none"


def test_where_an_environment_variable_can_round_products_are_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mkldnn, "is_acl_available", lambda: True)
    assert dtypes_of_products() == {torch.float64}


@pytest.mark.parametrize("a_dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("b_dtype", [torch.float32, torch.bfloat16])
def test_products_on_a_cpu_have_the_error_of_float32_sums(a_dtype: torch.dtype, b_dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    a, b = (8 * torch.randn(64, 256)).to(a_dtype), torch.randn(256, 16).to(b_dtype)
    assert_within_float32_sums(exact_product(a, b), a, b)


@pytest.mark.gpu
def test_tensor_cores_return_float32() -> None:
    a, b = (torch.randn(256, 256, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    exact = (a.double() @ b.double()).float()
    torch.testing.assert_close(exact_product(a, b), exact, rtol=1e-5, atol=1e-4)


@pytest.fixture
def tensor_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """Products of a GPU on the CPU: half-precision operands, float32 sums, and no float64."""

    def wide_product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        assert a.dtype == b.dtype and a.dtype in exact.HALF
        return a.float() @ b.float()

    monkeypatch.setattr(exact, "has_tensor_cores", lambda operand: True)
    monkeypatch.setattr(exact, "wide_product", wide_product)


def assert_within_float32_sums(product: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> None:
    expected = a.double() @ b.double()
    assert product.dtype == torch.float32
    assert (product.double() - expected).norm() < 3e-7 * expected.norm()
    bound = 2e-6 * (a.double().abs() @ b.double().abs())
    assert ((product.double() - expected).abs() < bound).all()


DTYPES = [torch.float32, torch.bfloat16, torch.float16]


@pytest.mark.usefixtures("tensor_cores")
@pytest.mark.parametrize("a_dtype", DTYPES)
@pytest.mark.parametrize("b_dtype", DTYPES)
def test_products_of_pieces_have_the_error_of_float32_sums(a_dtype: torch.dtype, b_dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    a, b = (8 * torch.randn(64, 256)).to(a_dtype), torch.randn(256, 16).to(b_dtype)
    assert_within_float32_sums(exact_product(a, b), a, b)


@pytest.mark.usefixtures("tensor_cores")
def test_a_compiler_sees_the_same_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = torch.randn(5, 7), torch.randn(7, 3)
    expected = exact_product(a, b)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert torch.equal(exact_product(a, b), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_the_gated_product_is_that_of_two_maps(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    gate, content = ExactLinear(40, 24).to(dtype), ExactLinear(40, 24).to(dtype)
    x, grad = torch.randn(2, 5, 40, dtype=dtype, requires_grad=True), torch.randn(2, 5, 24)
    leaves, results, calls = [x, gate.weight, content.weight], [], []
    for _ in range(2):
        y = exact_gated(x, gate, content)
        results.append([y, *torch.autograd.grad(y, leaves, grad.to(y.dtype))])
        gate.register_forward_hook(lambda *given: calls.append(given[2].shape))  # then each map is called
    assert len(calls) == 1
    for one, other in zip(*results, strict=True):
        assert one.dtype == other.dtype
        torch.testing.assert_close(
            one, other, rtol=2**-6 if dtype == torch.bfloat16 else 1e-5, atol=1e-2 if dtype == torch.bfloat16 else 1e-6
        )
