"""What a position scheme says about itself: its map, its parameters, its names and its layers. Needs no torch.

The rest of the system asks these questions and knows no scheme by name: accounting, the model, import and export,
optimizer groups, the position watch and reports.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from model.config import ModelConfig, PositionsConfig
from model.errors import require

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module


class PositionScheme(ABC):
    """One way to give the tokens of a layer their positions. Keeps no state: parameters are `Positions`' own."""

    name: ClassVar[str]
    """The scheme in `positions.scheme`, `positions.layers` and a checkpoint's `layer_positions`."""
    is_learned: ClassVar[bool] = False
    """Whether the positions come from parameters."""
    adds_index: ClassVar[bool] = False
    """Whether a token stands at its index plus what `positions` returns, which is then a deviation from the index."""
    symbols: ClassVar[Mapping[str, str]] = {}
    """Map name -> how people write its matrix. The position watch reads these maps."""
    head_map: ClassVar[str | None] = None
    """The map whose output is the positions, a row per head: the watch compares its gradient with the positions'."""
    zero_maps: ClassVar[frozenset[str]] = frozenset()
    """The maps that begin as zero; the others begin random."""
    hf_names: ClassVar[Mapping[str, str]] = {}
    """Map name -> part of its key in Hugging Face checkpoints: model.layers.N.PART.weight."""
    published_mode: ClassVar[str | None] = None
    """`dynamic_pe_mode` in the published `pe_config`; None if the published vocabulary has no word for the scheme."""

    is_tokenwise: ClassVar[bool] = False
    """Whether a token's position follows from its own vector and index, or where the scheme is not learned from its
    index alone. Then generating text keeps keys, and an export can carry the scheme. A subclass with another
    `positions` has to say it again."""
    in_remote_code: ClassVar[bool] = False
    """Whether model/huggingface/schemes_repo_olmo2.py has the scheme; an export adds others to it. Not inherited."""

    def __init_subclass__(cls) -> None:
        """Raises TypeError where the names of the maps contradict each other."""
        super().__init_subclass__()
        cls.in_remote_code = vars(cls).get("in_remote_code", False)
        if "positions" in vars(cls):
            cls.is_tokenwise = vars(cls).get("is_tokenwise", False)
        if cls.symbols.keys() != cls.hf_names.keys() or cls.is_learned != bool(cls.symbols):
            raise TypeError(f"{cls.__name__} must name the same maps in symbols and hf_names, and has some if learned")
        if not cls.zero_maps <= cls.symbols.keys():
            raise TypeError(f"{cls.__name__}.zero_maps names {', '.join(cls.zero_maps - cls.symbols.keys())}: no map")

    def __init__(self, model: ModelConfig, positions: PositionsConfig) -> None:
        """Raises ModelError if the scheme cannot be built with these settings."""
        self.model = model
        self.config = positions

    @classmethod
    def layers(cls, start_layer: int | None, num_layers: int) -> tuple[str, ...]:
        """Returns the scheme of each layer, bottom first, under `positions.scheme=NAME`: this one in every layer.

        Raises ModelError if `positions.start_layer` does not fit.
        """
        refuse_start_layer(cls.name, start_layer)
        return (cls.name,) * num_layers

    def maps(self) -> dict[str, tuple[int, int]]:
        """Returns the linear maps of one layer in their order: name -> (output, input) width.

        They have no bias, and there are no parameters of other kinds.
        """
        return {}

    @property
    def num_parameters(self) -> int:
        """Parameters of one layer, which is also the number of weights that each token is multiplied with."""
        return sum(num_outputs * num_inputs for num_outputs, num_inputs in self.maps().values())

    def kept_bytes(self, element: int) -> int:
        """Returns the bytes per token that one layer keeps for the backward pass, beside its input.

        `element` is the size of an activation of the backbone in bytes: 2 for bf16.
        """
        return 0

    @abstractmethod
    def positions(self, h_btd: "Tensor", maps: Mapping[str, "Module"]) -> "Tensor | None":
        """Returns positions [T] or [B, T, H_kv], integer or float, or None for no rotation; with `adds_index`,
        deviations from the index.

        `h_btd` is the input of the block before any norm, `maps` the modules of `maps()` by name.
        """


def refuse_start_layer(scheme: str, start_layer: int | None) -> None:
    """Raises ModelError if there is a start layer: this value of `positions.scheme` has none."""
    require(
        start_layer is None,
        f"positions.start_layer is {start_layer}, but positions.scheme={scheme} has none; set it to null",
    )
