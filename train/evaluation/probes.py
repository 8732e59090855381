"""Asks made-up questions while the model trains (evaluate/tasks): likelihoods of answers, and scores of generated ones.

`evaluation.probe_interval` says how often, `evaluation.probes` what. Samples and figures are those of
`python -m evaluate probe` with these settings: means over samples of the negative log-likelihood of the right answer
per token; of whether that is more likely than the wrong ones, where a task has any; and of the score of what the model
generates. Likelihoods take a forward pass per batch, which every ZeRO stage has. Generating takes whole weights on each
rank, which ZeRO 3 has not.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from data.rows import split_evenly
from data.tokenizer import DocumentEncoder
from evaluate.samples import Fitted, Samples
from evaluate.tasks import build_tasks
from evaluate.tasks.task import Task
from model.loss import IGNORED
from report.metrics import probe_choice, probe_nll, probe_score
from train.callbacks.position_probes import find_encoder
from train.config import RunConfig
from train.distributed import Ranks
from train.engine.engine import Engine
from train.errors import TrainError
from train.evaluation.base import EvaluationTask
from train.micro_batches import to_micro_batch

WITHOUT_WHOLE_WEIGHTS = 3  # the ZeRO stage


@dataclass(frozen=True)
class Questions:
    """The samples of a task at a length, and a row for each of their answers: first the right ones, then wrong ones."""

    task: Task
    name: str
    length: int
    samples: list[Fitted]
    tokens: np.ndarray
    """int64 [R, T]: prompt and answer, filled up behind."""
    labels: np.ndarray
    """int64 [R, T]: the next token where it is the answer's, else -100."""

    def metrics(self, nll_r: np.ndarray) -> dict[str, float]:
        """Returns the figures by name from the negative log-likelihood of each row, in nats."""
        num_samples = len(self.samples)
        right, wrong = nll_r[:num_samples], iter(nll_r[num_samples:])
        per_token = [nll / len(each.answer) for nll, each in zip(right, self.samples, strict=True)]
        found = {probe_nll(self.name, self.length): float(np.mean(per_token))}
        if len(nll_r) > num_samples:
            choices = [
                nll < min(next(wrong) for _ in each.wrong_answers)
                for nll, each in zip(right, self.samples, strict=True)
            ]
            found[probe_choice(self.name, self.length)] = float(np.mean(choices))
        return found


class Probes(EvaluationTask):
    """Measures `eval/probe/TASK-LENGTH/nll`, `.../choice` and `.../score`."""

    def __init__(
        self,
        questions: list[Questions],
        interval: int,
        micro_batch_size: int | None,
        encoder: DocumentEncoder | None,
        eos_token_id: int,
    ) -> None:
        """`micro_batch_size` None is the training's. Without an encoder, which reads answers, none is generated."""
        self.interval = interval
        self._questions = questions
        self._micro_batch_size = micro_batch_size
        self._encoder = encoder
        self._eos_token_ids = [eos_token_id]

    @classmethod
    def build(cls, config: RunConfig) -> Self | None:
        """Returns None without an interval.

        Raises TrainError without a tokenizer and for what the ZeRO stage cannot do, and EvaluateError as samples do.
        """
        interval, probes = config.evaluation.probe_interval, config.evaluation.probes
        if interval is None:
            return None
        if probes.generate and config.engine.zero_stage == WITHOUT_WHOLE_WEIGHTS:
            raise TrainError(
                "evaluation.probes.generate=true needs whole weights on every rank, which engine.zero_stage=3 does not "
                "have: set evaluation.probes.generate=false, or engine.zero_stage to 2 or less"
            )
        encoder = find_encoder(config)
        if encoder is None:
            raise TrainError(
                "evaluation.probe_interval is set, but no tokenizer is known: set position_watch.probe_tokenizer"
            )

        def encode(text: str) -> list[int]:
            ids: list[int] = encoder.encode([text])[:-1].tolist()  # without EOS
            return ids

        questions = []
        for name, task in build_tasks(probes).items():
            for length in probes.length or [config.sequence_length]:
                samples = Samples(name, task, length, probes, encode)
                fitted = [samples[index] for index in range(probes.num_samples)]
                questions.append(Questions(task, name, length, fitted, *_rows(fitted)))
        reader = encoder if probes.generate else None
        return cls(questions, interval, config.evaluation.micro_batch_size, reader, config.model.eos_token_id)

    def run(self, engine: Engine, ranks: Ranks, stop_requested: Callable[[], bool]) -> dict[str, float] | None:
        """Returns the figures by name; asks for a stop before every micro-batch and every generated answer."""
        found: dict[str, float] = {}
        for own in self._questions:
            nll_r = self._nll(own, engine, ranks, stop_requested)
            if nll_r is None:
                return None
            found |= own.metrics(nll_r.cpu().numpy())
            if self._encoder is not None:
                score = self._score(own, self._encoder, engine, ranks, stop_requested)
                if score is None:
                    return None
                found[probe_score(own.name, own.length)] = score
        return found

    def _nll(self, own: Questions, engine: Engine, ranks: Ranks, stop_requested: Callable[[], bool]) -> Tensor | None:
        """Returns the negative log-likelihood of each row, float64 [R], or None if a stop was requested."""
        size = self._micro_batch_size or engine.micro_batch_size
        nll_r = torch.zeros(len(own.tokens), dtype=torch.float64, device=engine.device)
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
            nll_r.index_add_(0, torch.from_numpy(chosen[rows]).to(engine.device), losses_bt.double().sum(1))
        if ranks.world_size > 1:
            dist.all_reduce(nll_r)
        return nll_r

    def _score(
        self,
        own: Questions,
        encoder: DocumentEncoder,
        engine: Engine,
        ranks: Ranks,
        stop_requested: Callable[[], bool],
    ) -> float | None:
        """Returns the mean score of generated answers, or None if a stop was requested."""
        total = torch.zeros(1, dtype=torch.float64, device=engine.device)
        share = split_evenly(len(own.samples), ranks.rank, ranks.world_size)
        for turn in range(math.ceil(len(own.samples) / ranks.world_size)):
            if stop_requested():
                return None
            for index in share[turn : turn + 1]:  # a rank may have one less
                fitted = own.samples[index]
                prompt = torch.tensor(fitted.prompt, device=engine.device)
                answer = engine.continued(prompt, fitted.max_new_tokens, self._eos_token_ids)
                output = encoder.decode(np.array(answer, np.int64), skip_special_tokens=True)
                total += own.task.score(output, fitted.sample.gold)
        if ranks.world_size > 1:
            dist.all_reduce(total)
        return float(total) / len(own.samples)


def _rows(samples: Sequence[Fitted]) -> tuple[np.ndarray, np.ndarray]:
    """Returns tokens and labels of all answers, [R, T] each, the right answers of all samples first."""
    pairs = [(each.prompt, each.answer) for each in samples]
    pairs += [(each.prompt, wrong) for each in samples for wrong in each.wrong_answers]
    longest = max(len(prompt) + len(answer) for prompt, answer in pairs)
    tokens = np.zeros((len(pairs), longest), np.int64)
    labels = np.full((len(pairs), longest), IGNORED, np.int64)
    for row, (prompt, answer) in enumerate(pairs):
        start, end = len(prompt), len(prompt) + len(answer)
        tokens[row, :end] = prompt + answer
        labels[row, start - 1 : end - 1] = answer
    return tokens, labels
