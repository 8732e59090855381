"""Residual positions: a token's index, plus what RePo's map reads from the residual stream. Ours, not the paper's.

    z = index + W_z (silu(W_g h) * W_c h),    W_z = 0 at the start

RePo drops the index and starts close to NoPE, so a RoPE backbone first loses what it has learned about order. Here the
first step is the very model that the backbone is, to the bit, and what is learned are deviations from the index.

With YaRN only the index is stretched (model/rotary.py, `Frequencies.deviation_turns`).
"""

from model.positions.repo import Repo


class Residual(Repo):
    """Deviations from the index, one per token and key-value head; the map and its layers are RePo's."""

    name = "residual"
    adds_index = True
    zero_maps = frozenset({"final"})
    hf_names = {  # noqa: RUF012 - the base declares it as ClassVar
        "gate": "self_attn.deviation_gate_map",
        "content": "self_attn.deviation_content_map",
        "final": "self_attn.deviation_final_map",
    }
    published_mode = None
    in_remote_code = True
