"""NoPE: no positions (arXiv 2305.19466)."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from model.positions.base import PositionScheme

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module


class Nope(PositionScheme):
    """q and k are not rotated; the order of tokens is known from the causal mask alone."""

    name = "nope"
    published_mode = "nope"
    is_tokenwise = True
    in_remote_code = True

    def positions(self, h_btd: "Tensor", maps: Mapping[str, "Module"]) -> None:
        """Returns None."""
