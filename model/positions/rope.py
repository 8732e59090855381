"""RoPE (arXiv 2104.09864): a token's position is its index."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from model.positions.base import PositionScheme

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module


class Rope(PositionScheme):
    """0, 1, 2, ... for every row and head alike: the positions of plain OLMo-2."""

    name = "rope"
    published_mode = "none"
    is_tokenwise = True
    in_remote_code = True

    def positions(self, h_btd: "Tensor", maps: Mapping[str, "Module"]) -> "Tensor":
        """Returns [T] int64."""
        import torch  # not at the top: launchers read this file without torch

        return torch.arange(h_btd.shape[1], device=h_btd.device)
