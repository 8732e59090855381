"""Loss and perplexity of the validation rows: over all labels, per source, and by token index in the row.

Indices come in ranges that double in length, so that long context is seen apart from short. Losses are
cross entropy in nats per valid label. The rows are split over the ranks; sums are float64, so that the split changes
nothing but rounding.
"""

import math
from collections.abc import Callable, Iterator
from typing import Self

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from data.rows import split_evenly
from data.validation import ValidationRows, build_validation
from model.loss import IGNORED
from report.metrics import EVAL_LOSS, EVAL_PERPLEXITY, bucket_loss, source_loss, source_perplexity
from train.config import RunConfig
from train.distributed import Ranks
from train.engine.engine import Engine, MicroBatch
from train.errors import TrainError
from train.evaluation.base import EvaluationTask
from train.micro_batches import shifted_labels, to_micro_batch

MAX_EXPONENT = 700.0  # a larger one overflows float64
NUM_BUCKETS = 5  # ranges of indices in the row; the last is the second half of the row


class ValidationLoss(EvaluationTask):
    """Measures `eval/loss`, `eval/perplexity`, `eval/source/...` and `eval/position/...`."""

    def __init__(
        self, rows: ValidationRows, labels: np.ndarray, micro_batch_size: int | None, mask_documents: bool
    ) -> None:
        """Takes the rows and their labels [R, T].

        `micro_batch_size` None is the training's; `mask_documents` keeps documents of a row apart.
        """
        self._rows = rows
        self._labels = labels
        self._micro_batch_size = micro_batch_size
        self._mask_documents = mask_documents

    @classmethod
    def build(cls, config: RunConfig) -> Self | None:
        """Returns None without validation rows. Raises TrainError if they hold tokens that the model does not have."""
        rows = build_validation(config.data, sequence_length=config.sequence_length)
        if rows is None:
            return None
        largest = int(rows.tokens.max())
        if largest >= config.model.vocab_size:
            raise TrainError(
                f"the validation rows hold token id {largest}, but model.vocab_size={config.model.vocab_size}: "
                "data.validation names files that were made with another tokenizer"
            )
        if not rows.loss_mask.any():
            raise TrainError(
                "the repetition filter masks every validation row, so that nothing can be evaluated: name other files "
                "in data.validation, or set evaluation.enabled=false"
            )
        labels = shifted_labels(rows.tokens, rows.loss_mask, config.loss.answers_after, config.model.eos_token_id)
        if not (labels != IGNORED).any():
            raise TrainError(
                f"no validation row has the token loss.answers_after={config.loss.answers_after}: name other files in "
                "data.validation, or set loss.answers_after=null"
            )
        return cls(rows, labels, config.evaluation.micro_batch_size, config.mask_documents)

    def run(self, engine: Engine, ranks: Ranks, stop_requested: Callable[[], bool]) -> dict[str, float] | None:
        """Returns the losses and perplexities by name; asks for a stop before every micro-batch."""
        rows, length = self._rows, self._rows.tokens.shape[1]
        # Per index in the row and per source: the summed loss, then the number of labels.
        by_index = torch.zeros(2, length, dtype=torch.float64, device=engine.device)
        by_source = torch.zeros(2, len(rows.source_names), dtype=torch.float64, device=engine.device)
        for micro, sources in self._micro_batches(engine, ranks):
            if stop_requested():
                return None
            losses_bt = engine.evaluate(micro).ce_bt
            assert losses_bt is not None
            losses_bt, counts_bt = losses_bt.double(), (micro.labels_bt >= 0).double()
            by_index += torch.stack([losses_bt.sum(0), counts_bt.sum(0)])
            by_source.index_add_(1, sources.to(engine.device), torch.stack([losses_bt.sum(1), counts_bt.sum(1)]))
        if ranks.world_size > 1:
            dist.all_reduce(by_index)
            dist.all_reduce(by_source)
        return metrics_of(by_index.cpu(), by_source.cpu(), rows.source_names)

    def _micro_batches(self, engine: Engine, ranks: Ranks) -> Iterator[tuple[MicroBatch, Tensor]]:
        """Yields this rank's micro-batches and the source of each row, int64 [B]; as many on every rank.

        A rank with fewer rows repeats row 0 without labels: under ZeRO 3 every forward pass is collective.
        """
        rows, size = self._rows, self._micro_batch_size or engine.micro_batch_size
        share = split_evenly(len(rows.tokens), ranks.rank, ranks.world_size)
        num_micro_batches = math.ceil(math.ceil(len(rows.tokens) / ranks.world_size) / size)
        chosen = np.zeros(num_micro_batches * size, dtype=np.int64)
        chosen[: len(share)] = share
        is_real = np.arange(len(chosen)) < len(share)
        for first in range(0, len(chosen), size):
            rows_b, is_real_b = chosen[first : first + size], is_real[first : first + size]
            tokens = rows.tokens[rows_b]
            labels = np.where(is_real_b[:, None], self._labels[rows_b], IGNORED)
            boundaries = [rows.boundaries[row] for row in rows_b] if self._mask_documents else None
            micro = to_micro_batch(tokens, labels, boundaries, engine.device)
            yield micro, torch.from_numpy(rows.sources[rows_b].astype(np.int64))


def metrics_of(by_index: Tensor, by_source: Tensor, source_names: tuple[str, ...]) -> dict[str, float]:
    """Returns the metrics from float64 sums of losses and of labels: [2, T] by index in the row, [2, S] by source.

    A source or a range without a label has no metric.
    """
    total, count = by_index.sum(1).tolist()
    metrics = _loss_and_perplexity(EVAL_LOSS, EVAL_PERPLEXITY, total, count)
    for name, summed, num_labels in zip(source_names, *by_source.tolist(), strict=True):
        metrics |= _loss_and_perplexity(source_loss(name), source_perplexity(name), summed, num_labels)
    for start, stop in buckets(by_index.shape[1]):
        summed, num_labels = by_index[:, start:stop].sum(1).tolist()
        if num_labels:
            metrics[bucket_loss(start, stop)] = summed / num_labels
    return metrics


def buckets(length: int) -> list[tuple[int, int]]:
    """Returns the ranges [start, stop) of indices in a row: each as long as all before it, the last the second half.

    256, 512, 1024, 2048 and 4096 are the ends for rows of 4,096 tokens. Short rows have fewer ranges.
    """
    ends = sorted({length >> shift for shift in range(NUM_BUCKETS)} - {0})
    return list(zip([0, *ends], ends, strict=False))


def _loss_and_perplexity(loss_name: str, perplexity_name: str, summed: float, num_labels: float) -> dict[str, float]:
    if not num_labels:
        return {}
    loss = summed / num_labels
    return {loss_name: loss, perplexity_name: math.exp(loss) if not loss > MAX_EXPONENT else math.inf}
