"""Rows on the host to micro-batches on the device, for training and for evaluation alike."""

from collections.abc import Sequence

import numpy as np
import torch

from model.attention import Documents
from model.loss import IGNORED
from model.transfers import to_device
from train.engine.engine import MicroBatch


def shifted_labels(
    tokens_rt: np.ndarray, counts_r: np.ndarray, answers_after: int | None = None, eos_token_id: int = 0
) -> np.ndarray:
    """Returns int64 labels [R, T]: the next token of each row, and -100 after the last.

    `counts_r` is bool [R]: a row that is False is -100 throughout, so that it takes no part in the loss. With
    `answers_after`, so is all but what follows this token up to the end of the document, its EOS included.
    """
    labels = np.full(tokens_rt.shape, IGNORED, dtype=np.int64)
    labels[:, :-1] = tokens_rt[:, 1:]
    labels[~counts_r] = IGNORED
    if answers_after is not None:
        index_t = np.arange(tokens_rt.shape[1])
        begun, ended = (
            np.maximum.accumulate(np.where(tokens_rt == token, index_t, -1), axis=1)
            for token in (answers_after, eos_token_id)
        )
        labels[begun <= ended] = IGNORED
    return labels


def to_micro_batch(
    tokens_bt: np.ndarray,
    labels_bt: np.ndarray,
    boundaries: Sequence[np.ndarray] | None,
    device: torch.device,
) -> MicroBatch:
    """Returns the rows on `device`; with `boundaries`, one array of document cuts per row, documents stay apart.

    The host does not wait for the device.
    """
    return MicroBatch(
        tokens_bt=to_device(tokens_bt.astype(np.int64), device),
        labels_bt=to_device(labels_bt, device),
        documents=None if boundaries is None else Documents.from_boundaries(boundaries, device),
    )
