"""Rows become micro-batches with labels, and none of the model's work on one makes the host wait for the device."""

import contextlib
from pathlib import Path

import numpy as np
import pytest
import torch

from model.loss import IGNORED
from model.transformer import Olmo2
from tests.model.test_transfers import TO_GPU, Recorded
from tests.train.tiny import LENGTH, VOCAB_SIZE, tiny
from train.micro_batches import shifted_labels, to_micro_batch

X = IGNORED
EOS, ANSWER = 0, 9
BOUNDARIES = [np.array([0, 7, LENGTH]), np.array([0, LENGTH])]


def rows() -> tuple[np.ndarray, np.ndarray]:
    tokens = np.random.default_rng(0).integers(VOCAB_SIZE, size=(2, LENGTH), dtype=np.uint32)
    return tokens, shifted_labels(tokens, np.array([True, False]))


def test_labels_are_the_next_tokens_of_the_rows_that_count() -> None:
    tokens, labels = rows()
    assert (labels[0, :-1] == tokens[0, 1:]).all() and labels[0, -1] == IGNORED and (labels[1] == IGNORED).all()


def test_tokens_and_labels_are_queued_from_pinned_memory() -> None:
    with Recorded() as recorded:
        to_micro_batch(*rows(), None, torch.device("cuda"))
    assert recorded.calls == 2 * TO_GPU


@pytest.mark.parametrize("mask_documents", [False, True])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_forward_and_backward_never_ask_for_a_value(
    mask_documents: bool, checkpointing: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Meta tensors have no values: `item`, `cpu`, `nonzero`, a mask as an index or a tensor in an `if` all raise."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())  # does not know the device
    config = tiny(Path(), model__activation_checkpointing=checkpointing)
    with torch.device("meta"):
        model = Olmo2(config.model, config.positions, config.loss.z_loss_weight).bfloat16()
    micro = to_micro_batch(*rows(), BOUNDARIES if mask_documents else None, torch.device("meta"))
    sums = model(micro.tokens_bt, micro.labels_bt, micro.documents)
    (sums.total * torch.where(sums.total.isfinite(), 1.0, torch.nan)).backward()
    torch.stack([sums.ce, sums.z, sums.total])
    assert all(parameter.grad is not None for parameter in model.parameters())
    for wait in (sums.total.item, sums.total.cpu, micro.tokens_bt.nonzero):
        with pytest.raises((RuntimeError, NotImplementedError)):
            wait()


def test_only_answers_count_up_to_the_end_of_their_document() -> None:
    rows = np.array(
        [
            [1, 2, ANSWER, 3, 4, EOS, 5, ANSWER, 6, EOS, EOS, EOS],
            [1, 2, 3, 4, EOS, 5, 6, 7, 8, 1, 2, 3],
            [ANSWER, 3, EOS, ANSWER, EOS, 1, 2, 3, 4, 5, ANSWER, 7],
        ],
        np.uint32,
    )
    labels = shifted_labels(rows, np.array([True, True, True]), ANSWER, EOS)
    assert labels.tolist() == [
        [X, X, 3, 4, EOS, X, X, 6, EOS, X, X, X],
        [X] * 12,
        [3, EOS, X, EOS, X, X, X, X, X, X, 7, X],
    ]
    assert (shifted_labels(rows, np.array([False, True, True]), ANSWER, EOS)[0] == X).all()
