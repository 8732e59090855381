"""model/huggingface/scheme_code.py: what an export carries of a position scheme that its code does not have."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from model.config import PositionPrecision
from model.errors import ModelError
from model.huggingface import schemes_repo_olmo2
from model.huggingface.scheme_code import check_scheme, scheme_code
from model.positions.base import PositionScheme
from model.positions.module import Positions
from model.positions.repo import Repo
from tests.model.small import REPO, small

STEP = 0.25
ONE_MAP = {"slope": "self_attn.slope_map"}


class Waves(PositionScheme):
    """What a method may use: constants of its object and of this file, imported modules, names of its own."""

    name = "waves"
    is_tokenwise = True

    def positions(self, h_btd: Tensor, maps: Mapping[str, nn.Module]) -> Tensor:
        """Returns [1, T, H_kv]."""
        import numpy as np  # beside those of the file

        def wave(index: Tensor, head: int) -> Tensor:
            return index * STEP + torch.sin(index * math.pi / (head + self.model.key_value_heads))

        heads: int = self.model.key_value_heads
        index = torch.arange(h_btd.shape[1], dtype=torch.float64)
        scale = float(np.sqrt(self.config.hidden_divisor))
        return torch.stack([wave(index, head) for head in range(heads)], dim=-1)[None] / scale


class Linear(PositionScheme):
    name = "linear"
    is_tokenwise = True
    is_learned = True
    symbols = {"slope": "W"}  # noqa: RUF012
    hf_names = ONE_MAP
    zero_maps = frozenset({"slope"})

    def maps(self) -> dict[str, tuple[int, int]]:
        return {"slope": (self.model.key_value_heads, self.model.hidden_size)}

    def positions(self, h_btd: Tensor, maps: Mapping[str, nn.Module]) -> Tensor:
        z: Tensor = maps["slope"](h_btd)
        return z


class Wide(Repo):
    """RePo's own arithmetic in another scheme."""

    name = "wide"


def executed(scheme: PositionScheme) -> schemes_repo_olmo2.Scheme:
    """A scheme as the file that carries it has it."""
    file = vars(schemes_repo_olmo2) | {"SCHEMES": {}}
    exec(scheme_code(scheme), file)
    found = file["SCHEMES"][scheme.name]
    assert isinstance(found, schemes_repo_olmo2.Scheme)
    return found


@pytest.mark.parametrize("kind", [Waves, Linear, Wide])
def test_the_code_of_a_scheme_gives_its_positions_and_maps(kind: type[PositionScheme]) -> None:
    scheme = kind(small(), REPO)
    carried, module = executed(scheme), Positions(scheme)
    maps: dict[str, Callable[[Tensor], Tensor]] = dict(module.named_children())
    h = torch.randn(2, 9, small().hidden_size)
    found, expected = carried.positions, scheme.positions(h, dict(module.named_children()))
    assert found is not None and expected is not None
    result = found(h, maps)
    assert result is not None and torch.equal(result, expected) and result.shape[-1] == small().key_value_heads
    assert carried.is_learned == scheme.is_learned
    widths = {name: (owned, *shape) for (name, shape), owned in zip(scheme.maps().items(), names(scheme), strict=True)}
    assert carried.maps(None) == widths and carried.zero_maps == scheme.zero_maps


def names(scheme: PositionScheme) -> list[str]:
    return [scheme.hf_names[name].removeprefix("self_attn.") for name in scheme.maps()]


def test_the_code_is_a_function_without_self() -> None:
    code = scheme_code(Waves(small(), REPO))
    assert "self" not in code and "def waves_positions(h_btd, maps):" in code and "import math" in code
    assert f"heads = {small().key_value_heads}\n" in code and "index * 0.25" in code


def with_method(method: Any, **changes: Any) -> PositionScheme:
    kind = type("Mine", (Linear,), {"name": "mine", "positions": method, "is_tokenwise": True} | changes)
    scheme = kind(small(), REPO)
    assert isinstance(scheme, PositionScheme)
    return scheme


def calls_itself(self: Any, h_btd: Tensor, maps: Any) -> Tensor:
    return self.other(h_btd)


def uses_a_function(self: Any, h_btd: Tensor, maps: Any) -> Tensor:
    return helper(h_btd)


def helper(h: Tensor) -> Tensor:
    return h


def imports_the_project(self: Any, h_btd: Tensor, maps: Any) -> Any:
    from model.exact import ExactLinear

    return ExactLinear(1, 1)(h_btd)


def compares_a_class(self: Any, h_btd: Tensor, maps: Any) -> Tensor:
    return h_btd if self.config.precision is PositionPrecision.float32 else h_btd * 2


def asks_its_base(self: Any, h_btd: Tensor, maps: Any) -> Any:
    return super().positions(h_btd, maps)  # type: ignore[misc]


@pytest.mark.parametrize(
    ("scheme", "said"),
    [
        (with_method(calls_itself, other=helper), "positions() uses self.other: write it in the method"),
        (with_method(uses_a_function), "positions() uses helper: write it in the method"),
        (with_method(imports_the_project), "positions() imports model.exact of this project: write it in the method"),
        (with_method(compares_a_class), "positions() uses self.config.precision: write it in the method"),
        (with_method(asks_its_base), "positions() uses super: write it in the method"),
        (with_method(Linear.positions, is_tokenwise=False), "set is_tokenwise in Mine if it does"),
        (with_method(Linear.positions, name="mine-own"), "its name is no name in Python"),
        (with_method(Linear.positions, hf_names={"slope": "maps.slope"}), "is 'maps.slope'; name it self_attn.NAME"),
    ],
)
def test_what_cannot_be_carried_is_refused_with_the_reason(scheme: PositionScheme, said: str) -> None:
    with pytest.raises(ModelError) as raised:
        check_scheme(scheme)
    assert said in str(raised.value) and "\n" not in str(raised.value)


def test_a_subclass_with_other_positions_says_again_what_they_depend_on() -> None:
    class Smoothed(Repo):
        name = "smoothed"

        def positions(self, h_btd: Tensor, maps: Mapping[str, nn.Module]) -> Tensor:
            return super().positions(h_btd, maps).cumsum(1)

    assert Wide.is_tokenwise and not Smoothed.is_tokenwise
    assert Repo.in_remote_code and not Wide.in_remote_code
