"""Asks made-up questions while the model trains (evaluate/tasks): the log-likelihood of each right answer.

`evaluation.probe_interval` says how often, `evaluation.probes` what. Samples and figure are those of
`python -m evaluate probe` with these settings and max_new_tokens=1: the mean over samples of the negative
log-likelihood of the answer per token. Nothing is generated: a forward pass per batch is what every ZeRO stage has.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch
import torch.distributed as dist

from data.rows import split_evenly
from evaluate.samples import Samples
from evaluate.tasks import build_tasks
from model.loss import IGNORED
from report.metrics import probe_nll
from train.callbacks.position_probes import find_encoder
from train.config import RunConfig
from train.distributed import Ranks
from train.engine.engine import Engine
from train.errors import TrainError
from train.evaluation.base import EvaluationTask
from train.micro_batches import to_micro_batch


@dataclass(frozen=True)
class Questions:
    """The samples of a task at a length."""

    name: str
    """Of the metric."""
    tokens: np.ndarray
    """int64 [N, T]: prompt and answer, filled up behind."""
    labels: np.ndarray
    """int64 [N, T]: the next token where it is the answer's, else -100."""


class Probes(EvaluationTask):
    """Measures `eval/probe/TASK-LENGTH/nll`."""

    def __init__(self, questions: list[Questions], interval: int, micro_batch_size: int | None) -> None:
        """`micro_batch_size` None is the training's."""
        self.interval = interval
        self._questions = questions
        self._micro_batch_size = micro_batch_size

    @classmethod
    def build(cls, config: RunConfig) -> Self | None:
        """Returns None without an interval. Raises TrainError without a tokenizer, and EvaluateError as samples do."""
        interval = config.evaluation.probe_interval
        if interval is None:
            return None
        encoder = find_encoder(config)
        if encoder is None:
            raise TrainError(
                "evaluation.probe_interval is set, but no tokenizer is known: set position_watch.probe_tokenizer"
            )

        def encode(text: str) -> list[int]:
            ids: list[int] = encoder.encode([text])[:-1].tolist()  # without EOS
            return ids

        probes = replace(config.evaluation.probes, max_new_tokens=1)  # nothing is generated
        questions = []
        for name, task in build_tasks(probes).items():
            for length in probes.length or [config.sequence_length]:
                samples = Samples(name, task, length, probes, encode)
                fitted = [samples[index] for index in range(probes.num_samples)]
                pairs = [(each.prompt, each.answer) for each in fitted]
                questions.append(_questions(probe_nll(name, length), pairs))
        return cls(questions, interval, config.evaluation.micro_batch_size)

    def run(self, engine: Engine, ranks: Ranks, stop_requested: Callable[[], bool]) -> dict[str, float] | None:
        """Returns the figures by name; asks for a stop before every micro-batch."""
        totals = torch.zeros(len(self._questions), dtype=torch.float64, device=engine.device)
        size = self._micro_batch_size or engine.micro_batch_size
        for number, own in enumerate(self._questions):
            share = split_evenly(len(own.tokens), ranks.rank, ranks.world_size)
            # As many micro-batches on every rank, the last ones of row 0 without labels: ZeRO 3 is collective.
            num_micro_batches = math.ceil(math.ceil(len(own.tokens) / ranks.world_size) / size)
            chosen = np.zeros(num_micro_batches * size, dtype=np.int64)
            chosen[: len(share)] = share
            labels = np.where((np.arange(len(chosen)) < len(share))[:, None], own.labels[chosen], IGNORED)
            for first in range(0, len(chosen), size):
                if stop_requested():
                    return None
                rows = slice(first, first + size)
                micro = to_micro_batch(own.tokens[chosen[rows]], labels[rows], None, engine.device)
                losses_bt = engine.evaluate(micro).ce_bt
                assert losses_bt is not None
                counts_b = (micro.labels_bt >= 0).sum(1).clamp(min=1)
                totals[number] += (losses_bt.double().sum(1) / counts_b).sum()
        if ranks.world_size > 1:
            dist.all_reduce(totals)
        means = zip(self._questions, totals.tolist(), strict=True)
        return {own.name: total / len(own.tokens) for own, total in means}


def _questions(name: str, pairs: list[tuple[list[int], list[int]]]) -> Questions:
    longest = max(len(prompt) + len(answer) for prompt, answer in pairs)
    tokens = np.zeros((len(pairs), longest), np.int64)
    labels = np.full((len(pairs), longest), IGNORED, np.int64)
    for row, (prompt, answer) in enumerate(pairs):
        start, end = len(prompt), len(prompt) + len(answer)
        tokens[row, :end] = prompt + answer
        labels[row, start - 1 : end - 1] = answer
    return Questions(name, tokens, labels)
