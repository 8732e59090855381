"""RePo (arXiv 2512.14391, section 3): each token gets one real-valued position per head, read from the residual stream.

    z = W_z (silu(W_g h) * W_c h),    W_g, W_c: [m, d], W_z: [H_kv, m], m = d // 8, no bias

where h is the input of the block, before any norm. Causality is untouched: z only changes the rotation of q and k.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from model.config import ModelConfig, PositionPrecision, PositionsConfig
from model.errors import require
from model.positions.base import PositionScheme

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module


class Repo(PositionScheme):
    """Positions chosen by the model, one per token and key-value head.

    In float32 precision everything after the first product stays float32: a bfloat16 inner product followed by a
    float32 cast would keep 90% of the error of a chain that is bfloat16 throughout. That chain is the published one
    (`positions.precision=reference`).
    """

    name = "repo"
    is_learned = True
    symbols = {"gate": "W_g", "content": "W_c", "final": "W_z"}  # noqa: RUF012 - the base declares them as ClassVar
    head_map = "final"
    hf_names = {  # noqa: RUF012
        "gate": "self_attn.gate_map",
        "content": "self_attn.content_map",
        "final": "self_attn.final_map",
    }
    published_mode: ClassVar[str | None] = "swigluex_multihead"
    is_tokenwise = True
    in_remote_code = True

    def __init__(self, model: ModelConfig, positions: PositionsConfig) -> None:
        super().__init__(model, positions)
        self.width = model.hidden_size // positions.hidden_divisor
        require(
            self.width >= 1,
            f"positions.hidden_divisor is {positions.hidden_divisor}, above model.hidden_size {model.hidden_size}; "
            "lower it",
        )

    @classmethod
    def layers(cls, start_layer: int | None, num_layers: int) -> tuple[str, ...]:
        """Returns RoPE below `start_layer` (null: num_layers // 3, as published) and RePo from there up."""
        start = num_layers // 3 if start_layer is None else start_layer
        require(
            0 <= start < num_layers,
            f"positions.start_layer is {start} and model.num_layers is {num_layers}; choose 0 to {num_layers - 1}, "
            "or positions.scheme=rope for a model without RePo",
        )
        return ("rope",) * start + (cls.name,) * (num_layers - start)

    def maps(self) -> dict[str, tuple[int, int]]:
        """Returns the shapes of W_g, W_c and W_z."""
        inner = (self.width, self.model.hidden_size)
        return {"gate": inner, "content": inner, "final": (self.model.key_value_heads, self.width)}

    def kept_bytes(self, element: int) -> int:
        """Returns the bytes of gate, content and silu(gate) * content, and of z, which is always float32.

        In reference precision silu(gate) is kept too.
        """
        inner = 4 * element if self.config.precision is PositionPrecision.reference else 3 * 4
        return inner * self.width + 4 * self.model.key_value_heads

    def positions(self, h_btd: "Tensor", maps: Mapping[str, "Module"]) -> "Tensor":
        """Returns z [B, T, H_kv] in float32, float64 from float64."""
        import torch  # not at the top: launchers and accounting read this file without torch

        from model.exact import exact_gated

        z = maps["final"](exact_gated(h_btd, maps["gate"], maps["content"]))
        return z.to(torch.promote_types(z.dtype, torch.float32))
