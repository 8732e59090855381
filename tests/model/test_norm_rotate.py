"""The Triton kernel of norm and rotation is the float64 formula and its PyTorch definition.

Without a GPU it runs in Triton's interpreter (tests/conftest.py).
"""

import importlib.util
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model import norm_rotate
from model.config import Kernel, ModelConfig, NormPrecision, PositionPrecision, PositionsConfig, YarnConfig
from model.errors import ModelError
from model.norm_rotate import by_torch, by_triton, normalise_and_rotate, resolve_kernel
from model.rotary import Frequencies
from model.transformer import Attention
from tests.model import formulas
from tests.model.small import REPO, built, small

THETA = 500000.0
DEVICE = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
pytestmark = [pytest.mark.gpu] if torch.cuda.is_available() else []  # there, kernels are compiled


def to_bfloat16(original: Any, data: Any, input_dtype: Any, output_dtype: Any, rounding: Any) -> Any:
    """Triton's interpreter cuts bits off where every GPU rounds to the nearest."""
    if (str(input_dtype), str(output_dtype)) != ("fp32", "bf16"):
        return original(data, input_dtype, output_dtype, rounding)
    rounded = torch.from_numpy(data.copy()).view(torch.float32).bfloat16().view(torch.int16)
    return rounded.numpy().view("uint16").reshape(data.shape)


def multiplied_and_added(x: Any, y: Any, z: Any, handle: Any) -> Any:
    """Before Triton 3.9, the interpreter's fused multiply-add rounds twice."""
    exact = x.data.astype("float64") * y.data + z.data
    return handle(exact.astype(x.data.dtype), x.dtype.scalar)


@pytest.fixture(scope="module", autouse=True)
def interpreter() -> Iterator[None]:
    """An interpreter that rounds like a GPU."""
    from triton.runtime import interpreter

    original = interpreter._convert_float
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(interpreter, "_convert_float", lambda *given: to_bfloat16(original, *given))
        patch.setattr(
            interpreter.InterpreterBuilder,
            "create_fma",
            lambda _, x, y, z: multiplied_and_added(x, y, z, interpreter.TensorHandle),
        )
        yield


class Case:
    """Random q, k, weights, positions and gradients of these sizes."""

    def __init__(
        self,
        heads: tuple[int, int] = (4, 2),
        head_dim: int = 16,
        shape: tuple[int, int] = (1, 3),
        positions: str = "head",
        spread: float = 10.0,
        dtype: torch.dtype = torch.float32,
        yarn: YarnConfig | None = None,
    ) -> None:
        torch.manual_seed(0)
        config = ModelConfig(hidden_size=heads[0] * head_dim, num_heads=heads[0], num_kv_heads=heads[1])
        self.table = Frequencies(config, PositionsConfig(yarn=yarn))
        with DEVICE:
            self._draw(heads, head_dim, shape, positions, spread, dtype)

    def _draw(
        self,
        heads: tuple[int, int],
        head_dim: int,
        shape: tuple[int, int],
        positions: str,
        spread: float,
        dtype: torch.dtype,
    ) -> None:
        widths = [number * head_dim for number in heads]
        self.q, self.k = ((2 * torch.randn(*shape, width)).to(dtype).requires_grad_() for width in widths)
        self.norms = [nn.RMSNorm(width, eps=1e-6, dtype=dtype) for width in widths]
        for norm in self.norms:
            nn.init.uniform_(norm.weight, 0.5, 1.5)
        self.gradients = [torch.randn(*shape, number, head_dim).to(dtype) for number in heads]
        self.positions: Tensor | None = {
            "head": (torch.randn(*shape, heads[1]) * spread).requires_grad_(),
            "index": torch.arange(shape[1]) * int(spread),
            "none": None,
        }[positions]

    @property
    def given(self) -> Any:
        """The arguments of a way to compute it."""
        return self.q, self.k, *self.norms, self.positions, self.table

    def leaves(self) -> list[Tensor]:
        """What has a gradient: q, k, the weights, and positions that are learned."""
        weights = [norm.weight for norm in self.norms]
        learned = self.positions is not None and self.positions.requires_grad
        return [self.q, self.k, *weights, *([self.positions] if learned and self.positions is not None else [])]

    def run(self, way: Any) -> list[Tensor]:
        """The outputs of a way to compute it, then the gradients of the leaves."""
        out = way(*self.given)
        return [*out, *torch.autograd.grad(out, self.leaves(), self.gradients)]


def formula(q: Tensor, k: Tensor, q_norm: Any, k_norm: Any, positions: Tensor | None, table: Frequencies) -> Any:
    """Norm and rotation from the papers, in float64."""
    frequencies = table.turns(q.device) * 2 * torch.pi
    out = []
    for x, norm, heads_per_z in ((q, q_norm, q.shape[-1] // k.shape[-1]), (k, k_norm, 1)):
        x, weight = x.double(), norm.weight.double()
        x = x / (x.square().mean(-1, keepdim=True) + norm.eps).sqrt() * weight
        x = x.unflatten(-1, (-1, 2 * table.num_pairs))
        if positions is not None:
            z = positions[None, :, None] if positions.ndim == 1 else positions.repeat_interleave(heads_per_z, 2)
            x = formulas.rotated(x, z.expand(*x.shape[:2], -1), THETA, frequencies) * table.attention_factor
        out.append(x)
    return out


def errors(found: list[Tensor], expected: list[Tensor]) -> list[float]:
    """The size of each difference over the size of what is expected."""
    pairs = ((a.detach().double(), b.detach().double()) for a, b in zip(found, expected, strict=True))
    return [((a - b).norm() / b.norm().clamp_min(1e-30)).item() for a, b in pairs]


@pytest.mark.parametrize(
    "case",
    [
        {"heads": (4, 2), "head_dim": 64, "shape": (2, 2), "yarn": YarnConfig(factor=4.0)},
        {"heads": (1, 1), "head_dim": 128, "shape": (1, 2), "positions": "index"},
        {"heads": (6, 2), "head_dim": 32, "shape": (1, 5), "positions": "index", "spread": 1000},
        {"heads": (3, 3), "head_dim": 48, "shape": (1, 3)},  # sizes that are no powers of two
        {"heads": (2, 1), "head_dim": 32, "shape": (1, 2), "positions": "none"},
    ],
    ids=["grouped, YaRN", "one head", "by index", "odd sizes", "no positions"],
)
def test_values_and_all_gradients_are_the_formula(case: dict[str, Any]) -> None:
    made = Case(**case)
    assert max(errors(made.run(by_triton), made.run(formula))) < 5e-7


@pytest.mark.parametrize("spread", [4096.0, 1e6])
def test_the_bound_holds_at_any_distance(spread: float) -> None:
    case = Case(heads=(2, 2), head_dim=128, shape=(1, 2), spread=spread)
    found, expected = case.run(by_triton), case.run(formula)
    assert max(errors(found, expected)) < 5e-7
    torch.testing.assert_close(found[1].double(), expected[1], atol=2e-6, rtol=0)


def test_positions_out_of_all_bounds_rotate_by_some_angle() -> None:
    case = Case(shape=(1, 3), head_dim=32)
    assert case.positions is not None
    with torch.no_grad():
        case.positions.copy_(torch.tensor([1e8, -1e12, 1e30])[None, :, None])
    q, k = by_triton(*case.given)
    case.positions = None
    expected = by_torch(*case.given)
    for turned, plain in zip((q, k), expected, strict=True):
        torch.testing.assert_close(turned.norm(dim=-1), plain.norm(dim=-1), rtol=1e-5, atol=0)


def test_bfloat16_is_rounded_where_pytorch_rounds_it() -> None:
    case = Case(heads=(4, 2), head_dim=128, shape=(1, 4), dtype=torch.bfloat16)
    names = ("q", "k", "dq", "dk", "q weight", "k weight", "dz")
    for name, found, expected in zip(names, case.run(by_triton), case.run(by_torch), strict=True):
        assert found.dtype == expected.dtype, name
        if found.dtype is torch.bfloat16:  # sums in another order: a last bit now and then
            torch.testing.assert_close(found, expected, rtol=2**-7, atol=1e-4, msg=name)
            assert (found != expected).float().mean() < 0.005, name
        else:
            assert errors([found], [expected])[0] < 1e-3, name


def test_indices_given_to_every_head_change_no_bit() -> None:
    case = Case(positions="index", spread=1, shape=(2, 2))
    by_index = by_triton(*case.given)
    assert case.positions is not None
    case.positions = case.positions.float()[None, :, None].expand(2, 2, 2)
    for one, other in zip(by_index, by_triton(*case.given), strict=True):
        assert torch.equal(one, other)


def test_the_gradient_of_moving_all_positions_alike_is_zero() -> None:
    """Attention depends on differences of positions: what a head's tokens say of a common move cancels."""
    case = Case(heads=(4, 2), head_dim=32, shape=(1, 5), spread=100.0)
    q, k = by_triton(*case.given)
    v = torch.randn_like(k)
    out = F.scaled_dot_product_attention(
        q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), is_causal=True, enable_gqa=True
    )
    assert case.positions is not None
    (dz,) = torch.autograd.grad(out.square().sum(), case.positions)
    assert (dz.sum(1).abs() < 1e-6 * dz.abs().sum(1)).all() and dz.abs().min() > 0


def test_the_operator_is_registered_as_pytorch_expects() -> None:
    case = Case(heads=(2, 1), shape=(1, 2))
    given = (case.q, case.k, case.norms[0].weight, case.norms[1].weight, case.positions)
    torch.library.opcheck(
        norm_rotate.norm_rotate,
        (*given, case.table.split(DEVICE), 1e-6, 1.0),
        test_utils=("test_schema", "test_autograd_registration", "test_faketensor"),
    )


@pytest.fixture
def on_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors of the CPU take the way of those on a GPU."""
    monkeypatch.setattr(norm_rotate, "_is_on_gpu", lambda x: True)
    monkeypatch.setattr(norm_rotate, "_found", {})


@pytest.mark.usefixtures("on_gpu")
def test_a_model_learns_the_same_with_the_kernel() -> None:
    tokens, results = torch.tensor([[5, 77]], device=DEVICE), []
    for kernel in (Kernel.torch, Kernel.triton):
        model = built(small(kernel=kernel, num_layers=2, num_kv_heads=2), REPO).to(DEVICE)
        total = model(tokens, labels=tokens).total
        results.append([total, *torch.autograd.grad(total, list(model.parameters()))])
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("on_gpu")
def test_the_kernel_is_one_node_of_a_compiled_graph(caplog: pytest.LogCaptureFixture) -> None:
    torch.compiler.reset()
    torch.compiler.assume_constant_result(norm_rotate.kernel_works)
    seen: list[str] = []

    def backend(graph: torch.fx.GraphModule, _: Any) -> Any:
        seen.extend(str(node.target) for node in graph.graph.nodes if node.op == "call_function")
        return graph.forward

    case = Case(heads=(2, 1), shape=(1, 2))
    config = small(hidden_size=32, num_heads=2, num_kv_heads=1)
    attention = Attention(config, Frequencies(config, REPO)).to(DEVICE)
    h, z = torch.randn(1, 2, 32, device=DEVICE), case.positions
    with caplog.at_level(logging.INFO, "model"):
        found = torch.compile(attention, fullgraph=True, backend=backend)(h, z, None)
        expected = attention(h, z, None)
    assert attention.kernel is Kernel.auto
    assert sum("norm_rotate" in name for name in seen) == 1 and not any("rms_norm" in name for name in seen)
    said = [record.message for record in caplog.records if record.name.startswith("model")]
    assert said == ["queries and keys are normalised and rotated by one Triton kernel"]
    torch.testing.assert_close(found, expected)


def chosen(case: Case, kernel: Kernel) -> Any:
    """What a model with `model.kernel` computes."""
    way: Any = normalise_and_rotate
    return way(*case.given, kernel)


@pytest.mark.usefixtures("on_gpu")
def test_auto_says_once_why_pytorch_computes_it(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("no C compiler\nmore")

    monkeypatch.setattr(norm_rotate, "by_triton", broken)
    case = Case()
    for _ in range(2):
        found = chosen(case, Kernel.auto)
    for one, other in zip(found, by_torch(*case.given), strict=True):
        assert torch.equal(one, other)
    assert [record.message for record in caplog.records] == [
        "queries and keys are normalised and rotated by PyTorch, since Triton cannot: RuntimeError: no C compiler"
    ]
    with pytest.raises(RuntimeError, match="no C compiler"):
        chosen(case, Kernel.triton)


@pytest.mark.usefixtures("on_gpu")
def test_what_only_pytorch_computes_is_left_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(norm_rotate, "by_triton", lambda *_: pytest.fail("the kernel was called"))
    case = Case()
    double = Case(dtype=torch.float64)
    chosen(double, Kernel.triton)
    case.norms[0].register_forward_hook(lambda *_: None)
    chosen(case, Kernel.triton)


def test_reference_precision_is_pytorchs() -> None:
    single, reference = PositionPrecision.float32, NormPrecision.reference
    assert resolve_kernel(Kernel.auto, reference, single) is Kernel.torch
    assert resolve_kernel(Kernel.auto, NormPrecision.float32, PositionPrecision.reference) is Kernel.torch
    assert resolve_kernel(Kernel.triton, NormPrecision.float32, single) is Kernel.triton
    with pytest.raises(ModelError, match=r"does not compute model.norm_precision=reference; choose torch or auto"):
        resolve_kernel(Kernel.triton, reference, single)


def test_an_absent_triton_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert resolve_kernel(Kernel.triton, NormPrecision.float32, PositionPrecision.float32) is Kernel.triton
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(ModelError, match="needs the triton package"):
        resolve_kernel(Kernel.triton, NormPrecision.float32, PositionPrecision.float32)
