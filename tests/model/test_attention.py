"""Attention back ends agree with one another, and documents do not attend to each other."""

import importlib.util
import inspect
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from model.attention import Documents, _varlen, attention, attention_weights, resolve_backend
from model.config import AttentionBackend
from model.errors import ModelError
from tests.model import formulas

BACKENDS = [AttentionBackend.plain, AttentionBackend.sdpa]
BOUNDARIES = [[0, 3, 4, 12], [0, 12]]


def random_qkv(num_kv_heads: int) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    return torch.randn(2, 12, 4, 8), torch.randn(2, 12, num_kv_heads, 8), torch.randn(2, 12, num_kv_heads, 8)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("num_kv_heads", [4, 2, 1])
def test_every_backend_is_causal_softmax_attention(backend: AttentionBackend, num_kv_heads: int) -> None:
    q, k, v = random_qkv(num_kv_heads)
    out = attention(q, k, v, backend=backend)
    torch.testing.assert_close(out.double(), formulas.causal_attention(q, k, v), atol=1e-6, rtol=0)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("num_kv_heads", [4, 2])
def test_documents_attend_as_if_they_were_alone(backend: AttentionBackend, num_kv_heads: int) -> None:
    q, k, v = random_qkv(num_kv_heads)
    out = attention(q, k, v, backend=backend, documents=Documents.from_boundaries(BOUNDARIES))
    for row, cuts in enumerate(BOUNDARIES):
        for start, end in pairwise(cuts):
            alone = (x[row : row + 1, start:end] for x in (q, k, v))
            exact = formulas.causal_attention(*alone)
            torch.testing.assert_close(out[row : row + 1, start:end].double(), exact, atol=1e-6, rtol=0)


def test_backends_agree_on_gradients() -> None:
    documents = Documents.from_boundaries(BOUNDARIES)
    grads = []
    for backend in BACKENDS:
        qkv = [x.requires_grad_() for x in random_qkv(2)]
        out = attention(*qkv, backend=backend, documents=documents)
        grads.append(torch.autograd.grad(out.square().sum(), qkv))
    for plain, sdpa in zip(*grads, strict=True):
        torch.testing.assert_close(plain, sdpa, atol=1e-5, rtol=0)


def test_weights_can_be_shown_and_sum_to_one_within_the_document() -> None:
    q, k, _ = random_qkv(2)
    weights = attention_weights(q, k, Documents.from_boundaries(BOUNDARIES))
    assert weights.shape == (2, 4, 12, 12)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 4, 12))
    assert weights[0, :, 4:, :4].eq(0).all() and weights.triu(1).eq(0).all()


def test_documents_carry_what_kernels_ask_for() -> None:
    documents = Documents.from_boundaries([np.array([0, 3, 4, 4, 12], dtype=np.int32), [0, 12]])
    assert documents.cu_seqlens.dtype == documents.segments_bt.dtype == torch.int32
    assert documents.cu_seqlens.tolist() == [0, 3, 4, 4, 12, 24]
    assert documents.max_seqlen == 12
    assert documents.segments_bt[0].tolist() == [0] * 3 + [1] + [3] * 8


@pytest.mark.parametrize("boundaries", [[[1, 12]], [[0, 5, 3, 12]], [[0, 12], [0, 11]]])
def test_boundaries_out_of_order_are_refused(boundaries: list[list[int]]) -> None:
    with pytest.raises(ModelError, match="document boundaries of row"):
        Documents.from_boundaries(boundaries)


def test_auto_is_resolved_and_an_absent_package_is_named() -> None:
    assert resolve_backend(AttentionBackend.auto) is AttentionBackend.sdpa
    assert resolve_backend(AttentionBackend.plain) is AttentionBackend.plain
    if importlib.util.find_spec("flash_attn") is None:
        with pytest.raises(ModelError, match=r"model\.attention=flash_attn needs the flash-attn package"):
            resolve_backend(AttentionBackend.flash_attn)


@pytest.mark.gpu
@pytest.mark.parametrize("documents", [None, BOUNDARIES])
def test_flash_attn_agrees_with_sdpa(documents: list[list[int]] | None) -> None:
    pytest.importorskip("flash_attn")
    packed = None if documents is None else Documents.from_boundaries(documents, "cuda")
    q, k, v = (x.to("cuda", torch.bfloat16) for x in random_qkv(2))
    flash, sdpa = (
        attention(q, k, v, backend=backend, documents=packed)
        for backend in (AttentionBackend.flash_attn, AttentionBackend.sdpa)
    )
    torch.testing.assert_close(flash, sdpa, atol=2e-2, rtol=0)


@pytest.mark.gpu
@pytest.mark.parametrize("num_kv_heads", [4, 2])
def test_varlen_agrees_with_the_mask_forward_and_backward(num_kv_heads: int) -> None:
    documents, grads = Documents.from_boundaries(BOUNDARIES, "cuda"), []
    for backend in (AttentionBackend.sdpa, AttentionBackend.plain):
        qkv = [x.to("cuda", torch.bfloat16).requires_grad_() for x in random_qkv(num_kv_heads)]
        out = attention(*qkv, backend=backend, documents=documents)
        grads.append([out, *torch.autograd.grad(out.float().square().sum(), qkv)])
    for varlen, plain in zip(*grads, strict=True):
        torch.testing.assert_close(varlen, plain, atol=5e-2, rtol=5e-2)


def flash_package(folder: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "flash_attn").mkdir()
    (folder / "flash_attn" / "__init__.py").write_text(text)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, "flash_attn", raising=False)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("version = 4\n", "what is installed under this name has no flash_attn_func"),
        ("raise ImportError('undefined symbol: of another torch')\n", "undefined symbol: of another torch"),
        ("import absent_cuda_part\n", "No module named 'absent_cuda_part'"),
    ],
)
def test_a_flash_attn_that_cannot_be_called_is_refused_before_the_first_forward_pass(
    text: str, problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flash_package(tmp_path, text, monkeypatch)
    with pytest.raises(ModelError, match=problem):
        resolve_backend(AttentionBackend.flash_attn)


def test_a_flash_attn_that_can_be_called_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flash_package(tmp_path, "flash_attn_func = flash_attn_varlen_func = print\n", monkeypatch)
    assert resolve_backend(AttentionBackend.flash_attn) is AttentionBackend.flash_attn


@pytest.mark.parametrize("num_kv_heads", [4, 2])
def test_documents_reach_varlen_attention_as_it_expects_them(
    num_kv_heads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What torch's kernel is given is what its documentation asks for; the kernel itself needs a GPU."""
    varlen = importlib.import_module("torch.nn.attention.varlen")
    accepted = inspect.signature(varlen.varlen_attn)

    def per_document(*arguments: Any, **named: Any) -> Tensor:
        given = accepted.bind(*arguments, **named).arguments
        q, k, v, cuts = given["query"], given["key"], given["value"], given["cu_seq_q"]
        assert given["window_size"] == (-1, 0) and given["cu_seq_k"] is cuts and cuts.dtype == torch.int32
        assert q.shape == k.shape == v.shape and given["max_q"] == given["max_k"] == 12
        parts = [
            formulas.causal_attention(*(x[None, start:end] for x in (q, k, v)))[0]
            for start, end in pairwise(cuts.tolist())
        ]
        return torch.cat(parts)

    monkeypatch.setattr(varlen, "varlen_attn", per_document)
    q, k, v = random_qkv(num_kv_heads)
    documents = Documents.from_boundaries(BOUNDARIES)
    masked = attention(q, k, v, backend=AttentionBackend.plain, documents=documents)
    torch.testing.assert_close(_varlen(q, k, v, documents).float(), masked, atol=1e-6, rtol=0)
