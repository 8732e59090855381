"""RePo's map, its precision and its gradients are those of the formula."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from model.config import ModelConfig, PositionPrecision, PositionsConfig
from model.positions.module import Positions
from model.positions.repo import Repo
from model.rotary import Frequencies, rotate
from tests.model import formulas
from tests.model.small import REPO, built, small

PUBLISHED = PositionsConfig(precision=PositionPrecision.reference)


def learned(dtype: torch.dtype = torch.float32, positions: PositionsConfig | None = None) -> Positions:
    """The maps of one layer, 256 wide with four heads: an inner width of 32."""
    torch.manual_seed(0)
    config = ModelConfig(hidden_size=256, num_heads=4)
    return Positions(Repo(config, positions or PositionsConfig())).to(dtype)


def residual_stream(dtype: torch.dtype = torch.float32) -> Tensor:
    torch.manual_seed(1)
    return 8 * torch.randn(2, 64, 256).to(dtype)


def linear_map(positions: Positions, name: str) -> nn.Linear:
    found = positions.get_submodule(name)
    assert isinstance(found, nn.Linear)
    return found


def weights_of(positions: Positions) -> tuple[Tensor, Tensor, Tensor]:
    """W_g, W_c and W_z."""
    gate, content, final = (linear_map(positions, name).weight for name in ("gate", "content", "final"))
    return gate, content, final


def exact_z(positions: Positions, h: Tensor) -> Tensor:
    return formulas.repo_positions(h, *weights_of(positions))


def relative_error(z: Tensor, exact: Tensor) -> float:
    return ((z.double() - exact).square().mean() / exact.square().mean()).sqrt().item()


def test_positions_are_the_formula_in_float64() -> None:
    positions, h = learned(torch.float64), residual_stream(torch.float64)
    torch.testing.assert_close(positions(h), exact_z(positions, h), rtol=1e-12, atol=1e-12)


def test_gradients_are_those_of_the_formula() -> None:
    positions, h = learned(), residual_stream().requires_grad_()
    inputs = (h, *weights_of(positions))
    weights = torch.randn(2, 64, 4)
    grads = torch.autograd.grad((positions(h) * weights).sum(), inputs)
    exact = torch.autograd.grad((exact_z(positions, h) * weights.double()).sum(), inputs)
    for grad, expected in zip(grads, exact, strict=True):
        torch.testing.assert_close(grad, expected, rtol=1e-5, atol=1e-5 * expected.abs().max().item())


def test_bfloat16_weights_give_positions_to_float32_accuracy() -> None:
    positions, h = learned(torch.bfloat16), residual_stream(torch.bfloat16)
    assert relative_error(positions(h), exact_z(positions, h)) < 1e-6


def test_the_published_chain_loses_what_it_is_said_to_lose() -> None:
    positions, h = learned(torch.bfloat16, PUBLISHED), residual_stream(torch.bfloat16)
    z = positions(h)
    assert z.dtype == torch.float32
    assert torch.equal(z, z.bfloat16().float())
    assert 1e-3 < relative_error(z, exact_z(positions, h)) < 1e-2


@pytest.mark.parametrize("autocast", [False, True])
def test_everything_after_the_first_product_is_float32_forward_and_backward(autocast: bool) -> None:
    positions, h = learned(torch.bfloat16), residual_stream(torch.bfloat16)
    dtypes: list[torch.dtype] = []

    def note(_: torch.nn.Module, __: tuple[Tensor, ...], out: Tensor) -> None:
        dtypes.append(out.dtype)
        out.register_hook(lambda grad: dtypes.append(grad.dtype))

    for name in ("gate", "content", "final"):
        linear_map(positions, name).register_forward_hook(note)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        positions(h).sum().backward()
    assert dtypes == [torch.float32] * 6
    gradient = linear_map(positions, "gate").weight.grad
    assert gradient is not None and gradient.dtype == torch.bfloat16


@pytest.fixture
def restored_precision() -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    yield
    torch.set_float32_matmul_precision(before)


def test_positions_are_accurate_under_every_matmul_precision(restored_precision: None) -> None:
    positions, h = learned(), residual_stream()
    found = []
    for precision in ("highest", "high", "medium"):
        torch.set_float32_matmul_precision(precision)
        found.append(positions(h))
    for z in found:
        assert relative_error(z, exact_z(positions, h)) < 1e-6
    assert torch.equal(found[1], found[2])


def test_attention_stays_accurate_at_positions_of_a_thousand() -> None:
    positions, h = learned(torch.bfloat16), residual_stream(torch.bfloat16)
    with torch.no_grad():
        linear_map(positions, "final").weight.mul_(1000 / exact_z(positions, h).square().mean().sqrt())
    z, exact = positions(h), exact_z(positions, h)
    assert 500 < exact.square().mean().sqrt() < 2000
    q, k, v = (torch.randn(2, 64, 4, 64) for _ in range(3))
    config = small(hidden_size=256)
    q_turned, k_turned = rotate(q, k, z, Frequencies(config, REPO))
    found = formulas.causal_attention(q_turned, k_turned, v)
    q_exact, k_exact = (formulas.rotated(x, exact, config.rope_theta) for x in (q, k))
    torch.testing.assert_close(found, formulas.causal_attention(q_exact, k_exact, v), atol=2e-4, rtol=0)


@pytest.mark.parametrize("num_kv_heads", [4, 2])
def test_the_gradients_of_a_heads_positions_sum_to_zero(num_kv_heads: int) -> None:
    """Attention knows only differences of positions, so moving all of them alike is free."""
    model = built(small(num_kv_heads=num_kv_heads), REPO)
    zs: list[Tensor] = []

    def keep(_: nn.Module, __: tuple[Tensor, ...], z: Tensor) -> None:
        z.retain_grad()
        zs.append(z)

    for _, positions in model.learned_positions():
        positions.register_forward_hook(keep)
    tokens = torch.randint(96, (2, 24))
    model(tokens, labels=tokens.roll(-1, 1)).total.backward()
    assert [z.shape for z in zs] == [(2, 24, num_kv_heads)] * 2
    for z in zs:
        assert z.grad is not None and z.grad.abs().max() > 0
        assert (z.grad.sum(1).abs() < 1e-5 * z.grad.abs().sum(1)).all()


def test_reference_precision_builds_the_published_chain() -> None:
    reference = PositionsConfig(start_layer=1, precision=PositionPrecision.reference)
    tokens = torch.randint(96, (1, 8))
    exact, published = built(small(), REPO), built(small(), reference)
    torch.testing.assert_close(
        published(tokens), exact(tokens), atol=1e-5, rtol=0
    )  # in float32 there is nothing to round
    _, positions = next(published.bfloat16().learned_positions())
    h = torch.randn(1, 8, 64, dtype=torch.bfloat16)
    assert linear_map(positions, "gate")(h).dtype == torch.bfloat16
