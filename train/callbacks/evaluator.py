"""Evaluates the model on the validation rows every N steps and after the last step.

Logged with the metrics of the step: loss and perplexity over all labels, per source, and by position in the row, in
ranges that double in length, so that long context is seen apart from short. Losses are cross entropy in nats per valid
label. The rows are split over the ranks; sums are float64, so that the split changes nothing but rounding.

A stop request ends an evaluation after the micro-batch at hand. Its step is then evaluated when the run resumes.
"""

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from data.rows import split_evenly
from data.validation import ValidationRows
from report.metrics import EVAL_LOSS, EVAL_PERPLEXITY, bucket_loss, source_loss, source_perplexity
from train.callbacks.callback import StatefulCallback
from train.callbacks.config import EvaluationConfig
from train.engine.engine import MicroBatch
from train.errors import TrainError
from train.micro_batches import shifted_labels, to_micro_batch

if TYPE_CHECKING:
    from train.trainer import Trainer

NUM_BUCKETS = 5  # ranges of positions in the row; the last is the second half of the row


class Evaluator(StatefulCallback):
    """Validation losses, logged as `eval/...`."""

    name = "evaluator"

    def __init__(
        self, config: EvaluationConfig, build_rows: Callable[[], ValidationRows | None], *, mask_documents: bool
    ) -> None:
        self._config = config
        self._build_rows = build_rows
        self._mask_documents = mask_documents
        self._rows: ValidationRows | None = None
        self._evaluated_step = 0

    def on_start(self, trainer: "Trainer") -> None:
        self._rows = self._build_rows()
        if self._rows is not None:
            self._check_tokens(self._rows, trainer)
        if trainer.step and self._is_due(trainer):  # the stop came within its evaluation
            results = self._evaluate(trainer)
            if results is not None:
                trainer.log(results)

    def on_evaluate(self, trainer: "Trainer") -> None:
        if self._is_due(trainer):
            for name, value in (self._evaluate(trainer) or {}).items():
                trainer.record(name, value)

    def state_dict(self) -> dict[str, Any]:
        return {"evaluated_step": self._evaluated_step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._evaluated_step = state["evaluated_step"]

    def _check_tokens(self, rows: ValidationRows, trainer: "Trainer") -> None:
        largest, vocab_size = int(rows.tokens.max()), trainer.config.model.vocab_size
        if largest >= vocab_size:
            raise TrainError(
                f"the validation rows hold token id {largest}, but model.vocab_size={vocab_size}: "
                "data.validation names files that were made with another tokenizer"
            )

    def _is_due(self, trainer: "Trainer") -> bool:
        interval = self._config.interval
        at_interval = interval is not None and trainer.step % interval == 0
        is_step = at_interval or trainer.step == trainer.max_steps
        return self._rows is not None and is_step and self._evaluated_step != trainer.step

    def _evaluate(self, trainer: "Trainer") -> dict[str, float] | None:
        """Returns the metrics by name, or None if a stop was requested before the last micro-batch."""
        assert self._rows is not None
        rows = self._rows
        length, device = rows.tokens.shape[1], trainer.engine.device
        # Per index in the row and per source: the summed loss, then the number of labels.
        by_index = torch.zeros(2, length, dtype=torch.float64, device=device)
        by_source = torch.zeros(2, len(rows.source_names), dtype=torch.float64, device=device)
        for micro, sources in self._micro_batches(trainer):
            if trainer.stop_requested():
                trainer.is_cut_short = True
                return None
            sums = trainer.engine.evaluate(micro)
            assert sums.ce_bt is not None
            losses_bt, counts_bt = sums.ce_bt.double(), (micro.labels_bt >= 0).double()
            by_index += torch.stack([losses_bt.sum(0), counts_bt.sum(0)])
            by_source.index_add_(1, sources.to(device), torch.stack([losses_bt.sum(1), counts_bt.sum(1)]))
        if trainer.ranks.world_size > 1:
            dist.all_reduce(by_index)
            dist.all_reduce(by_source)
        self._evaluated_step = trainer.step
        return metrics_of(by_index.cpu(), by_source.cpu(), rows.source_names)

    def _micro_batches(self, trainer: "Trainer") -> Iterator[tuple[MicroBatch, Tensor]]:
        """Yields this rank's micro-batches and the source of each row, int64 [B]; as many on every rank.

        A rank with fewer rows repeats row 0 without labels: under ZeRO 3 every forward pass is collective.
        """
        assert self._rows is not None
        rows, ranks = self._rows, trainer.ranks
        size = self._config.micro_batch_size or trainer.engine.micro_batch_size
        share = split_evenly(len(rows.tokens), ranks.rank, ranks.world_size)
        num_micro_batches = math.ceil(math.ceil(len(rows.tokens) / ranks.world_size) / size)
        chosen = np.zeros(num_micro_batches * size, dtype=np.int64)
        chosen[: len(share)] = share
        is_real = np.arange(len(chosen)) < len(share)
        for first in range(0, len(chosen), size):
            rows_b, is_real_b = chosen[first : first + size], is_real[first : first + size]
            tokens = rows.tokens[rows_b]
            labels = shifted_labels(tokens, rows.loss_mask[rows_b] & is_real_b)
            boundaries = [rows.boundaries[row] for row in rows_b] if self._mask_documents else None
            micro = to_micro_batch(tokens, labels, boundaries, trainer.engine.device)
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
    return {loss_name: loss, perplexity_name: math.exp(loss) if loss < 700 else math.inf}
