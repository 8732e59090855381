"""Causal attention behind one function, and the document boundaries of a batch.

The back ends agree to rounding. `sdpa` is the default: on Hopper PyTorch dispatches it to cuDNN, which is 1.7 to 2.3
times as fast as FlashAttention-2, and elsewhere to its own FlashAttention-2. With documents (`mask_documents=true`) it
takes torch's varlen attention in half precision on a GPU, which skips what a mask would hide; anywhere else a mask.
`flash_attn` is the package of that name. `plain` is the definition, and the only one that can return its weights.
"""

import importlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from model.config import AttentionBackend
from model.errors import ModelError
from model.transfers import to_device


@dataclass(frozen=True)
class Documents:
    """The documents of a batch [B, T]; a token attends only to tokens of its own."""

    cu_seqlens: Tensor
    """int32 [documents + 1]: offset of each document among the B * T tokens, then B * T."""
    max_seqlen: int
    """Tokens of the longest document."""
    segments_bt: Tensor
    """int32 [B, T]: number of the token's document within the batch."""
    lengths: np.ndarray
    """int64, on the host: tokens of each document."""

    @classmethod
    def from_boundaries(
        cls, boundaries: Sequence[np.ndarray | Sequence[int]], device: torch.device | str = "cpu"
    ) -> "Documents":
        """Returns the documents of rows given as offsets: 0, then the end of each document, the last of them T.

        Raises ModelError if offsets are out of order or rows differ in length.
        """
        rows = [np.asarray(cuts, dtype=np.int64) for cuts in boundaries]
        length = rows[0][-1]
        for number, cuts in enumerate(rows):
            if cuts[0] != 0 or cuts[-1] != length or (np.diff(cuts) < 0).any():
                raise ModelError(
                    f"the document boundaries of row {number} are {cuts[:4].tolist()} ... {cuts[-1]}; "
                    f"give each row 0, then the end of each document in order, the last of them {length}"
                )
        lengths = np.concatenate([np.diff(cuts) for cuts in rows])
        segments = np.repeat(np.arange(len(lengths), dtype=np.int32), lengths).reshape(len(rows), length)
        starts = np.concatenate(([0], lengths.cumsum())).astype(np.int32)
        return cls(
            cu_seqlens=to_device(starts, device),
            max_seqlen=int(lengths.max()),
            segments_bt=to_device(segments, device),
            lengths=lengths,
        )

    @cached_property
    def mask_b1tt(self) -> Tensor:
        """True where a query (third dimension) attends to a key (last): same document, not later. Computed once."""
        same = self.segments_bt[:, None, :, None] == self.segments_bt[:, None, None, :]
        return same.tril()


FLASH_FUNCTIONS = ("flash_attn_func", "flash_attn_varlen_func")


def resolve_backend(backend: AttentionBackend) -> AttentionBackend:
    """Returns the back end that `auto` stands for. Raises ModelError if flash_attn is chosen and cannot be used."""
    if backend is AttentionBackend.flash_attn and (problem := _flash_problem()):
        raise ModelError(
            f"model.attention=flash_attn needs the flash-attn package (version 2): {problem}; "
            "choose auto, or run `pip install --no-build-isolation flash-attn` on a machine with nvcc"
        )
    return AttentionBackend.sdpa if backend is AttentionBackend.auto else backend


def _flash_problem() -> str | None:
    """Returns why flash_attn's functions cannot be called, or None: imports them, as other packages share its name."""
    try:
        package = importlib.import_module("flash_attn")
    except ModuleNotFoundError as error:
        return "it is not installed" if error.name == "flash_attn" else str(error)
    except (ImportError, OSError) as error:  # built for another torch
        return " ".join(str(error).split())
    missing = [name for name in FLASH_FUNCTIONS if not hasattr(package, name)]
    return f"what is installed under this name has no {missing[0]}" if missing else None


def attention(
    q_bthd: Tensor,
    k_bthd: Tensor,
    v_bthd: Tensor,
    *,
    backend: AttentionBackend,
    documents: Documents | None = None,
) -> Tensor:
    """Returns causal softmax attention, scores over sqrt(D): q [B, T, H, D], k and v [B, T, H_kv, D] -> [B, T, H, D].

    Query head h reads key-value head h // (H / H_kv). `backend` is a resolved one. With `documents`, no token attends
    to another document.
    """
    return _BACKENDS[backend](q_bthd, k_bthd, v_bthd, documents)


def attention_weights(q_bthd: Tensor, k_bthd: Tensor, documents: Documents | None = None) -> Tensor:
    """Returns the weights of `plain` attention, [B, H, query, key], float32 or wider; rows sum to 1."""
    num_shared = q_bthd.shape[2] // k_bthd.shape[2]
    wide = torch.promote_types(q_bthd.dtype, torch.float32)
    q, k = q_bthd.to(wide), k_bthd.to(wide).repeat_interleave(num_shared, dim=2)
    scores = torch.einsum("bqhd,bkhd->bhqk", q, k) / math.sqrt(q.shape[-1])
    if documents is None:
        visible = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).tril()
    else:
        visible = documents.mask_b1tt
    return scores.masked_fill(~visible, -torch.inf).softmax(dim=-1)


def _plain(q: Tensor, k: Tensor, v: Tensor, documents: Documents | None) -> Tensor:
    weights = attention_weights(q, k, documents)
    v_shared = v.to(weights.dtype).repeat_interleave(q.shape[2] // v.shape[2], dim=2)
    return torch.einsum("bhqk,bkhd->bqhd", weights, v_shared).to(q.dtype)


def _sdpa(q: Tensor, k: Tensor, v: Tensor, documents: Documents | None) -> Tensor:
    if documents is not None and q.is_cuda and q.dtype in (torch.bfloat16, torch.float16):
        return _varlen(q, k, v, documents)
    # Transposed views, never copies: every fused kernel reads [B, T, H, D] memory.
    out = F.scaled_dot_product_attention(
        q.transpose(1, 2),
        k.transpose(1, 2),
        v.transpose(1, 2),
        attn_mask=None if documents is None else documents.mask_b1tt,
        is_causal=documents is None,
        enable_gqa=q.shape[2] != k.shape[2],
    )
    return out.transpose(1, 2)


def _varlen(q: Tensor, k: Tensor, v: Tensor, documents: Documents) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn  # loads kernels

    num_shared = q.shape[2] // k.shape[2]
    if num_shared > 1:  # copies, as not every version of torch knows shared heads here
        k, v = (x.repeat_interleave(num_shared, dim=2) for x in (k, v))
    cuts, longest = documents.cu_seqlens, documents.max_seqlen
    q_nhd, k_nhd, v_nhd = (x.flatten(0, 1) for x in (q, k, v))
    out = varlen_attn(q_nhd, k_nhd, v_nhd, cuts, cuts, longest, longest, window_size=(-1, 0))  # (-1, 0): causal
    assert isinstance(out, Tensor)
    return out.unflatten(0, q.shape[:2])


def _flash(q: Tensor, k: Tensor, v: Tensor, documents: Documents | None) -> Tensor:
    # Imported here: the package is optional, and resolve_backend has checked that it is installed.
    from flash_attn import flash_attn_func, flash_attn_varlen_func

    if documents is None:
        return flash_attn_func(q, k, v, causal=True)
    cuts, longest = documents.cu_seqlens, documents.max_seqlen
    packed = (x.flatten(0, 1) for x in (q, k, v))
    out = flash_attn_varlen_func(*packed, cuts, cuts, longest, longest, causal=True)
    return out.unflatten(0, q.shape[:2])


_BACKENDS: dict[AttentionBackend, Callable[[Tensor, Tensor, Tensor, Documents | None], Tensor]] = {
    AttentionBackend.plain: _plain,
    AttentionBackend.sdpa: _sdpa,
    AttentionBackend.flash_attn: _flash,
}
