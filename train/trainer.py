"""The trainer owns time: steps, tokens, signals, stopping. Everything periodic is a callback."""

import signal
import time
from collections.abc import Sequence
from types import FrameType
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from data.stream import Batch, BatchStream, merge_states
from model.attention import Documents
from model.loss import IGNORED
from train.callbacks.callback import Callback
from train.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from train.config import LossDenominator, RunConfig
from train.distributed import Ranks
from train.engine import Engine, MicroBatch, Update
from train.errors import TrainError
from train.run_folder import FINISHED, RunFolder
from train.schedule import learning_rate, repo_factor
from train.watch.alert import Alert

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)


class EndedError(Exception):
    """This rank was told to stop, and lost its peers before the step was done."""


class Trainer:
    """One run on this rank."""

    def __init__(
        self,
        config: RunConfig,
        ranks: Ranks,
        folder: RunFolder,
        engine: Engine,
        stream: BatchStream,
        callbacks: Sequence[Callback],
    ) -> None:
        self.config = config
        self.ranks = ranks
        self.folder = folder
        self.engine = engine
        self.stream = stream
        self.callbacks = callbacks
        self.step = 0  # of the update at hand, counted from 1; after it, updates done
        self.tokens = 0  # read so far, over all ranks
        self.num_skipped = 0  # updates dropped because of non-finite gradients, so far
        self.step_seconds = 0.0  # of the last step, and the part of it that waited for data
        self.data_seconds = 0.0
        self.update = Update(grad_norm=0.0, applied=True)  # what became of the last one
        self._skipped_in_a_row = 0
        self._metrics: dict[str, Any] = {}
        self._signal: str | None = None
        self._stop_reason: str | None = None
        self._saved_step = -1

    @property
    def is_logged(self) -> bool:
        """Whether the metrics of this step go to the sinks."""
        return self.step % self.config.logging.interval == 0 or self.step == self.config.max_steps

    def fit(self, checkpoint: Checkpoint | None) -> str:
        """Train from `checkpoint`, or from the engine's weights, to the last step or a stop; returns why it ended."""
        if checkpoint is not None:
            self._restore(checkpoint)
        handlers = {number: signal.signal(number, self._on_signal) for number in STOP_SIGNALS}
        try:
            self._call("on_start")
            while self.step < self.config.max_steps:
                self.step += 1
                self._train_step()
                self._call("on_update")
                self._log()
                self._call("on_step_end")
                if self._stop_requested():
                    break
            is_finished = self.step >= self.config.max_steps
            reason = FINISHED if is_finished else self._stop_reason or self._signal or "signal on another rank"
            self.save()
            self._call("on_stop", reason)
        except RuntimeError as error:
            if self._signal is not None:  # told to stop because another rank is gone: that one has said why
                raise EndedError(self._signal) from error
            raise
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
            self.stream.close()
            for callback in self.callbacks:
                callback.close()
        return reason

    def record(self, name: str, value: Any) -> None:
        """Add a metric to this step: a number, a tensor, or a list of numbers."""
        self._metrics[name] = value

    def alert(self, alert: Alert) -> None:
        """Tell all callbacks what the position watch found; every rank calls it."""
        self._call("on_alert", alert)

    def stop(self, reason: str) -> None:
        """End the run after this step, with a checkpoint; every rank calls it."""
        self._stop_reason = reason

    def save(self) -> None:
        """Publish a checkpoint of the current step, unless that has been done."""
        if self._saved_step == self.step:
            return
        state = {
            "step": self.step,
            "tokens": self.tokens,
            "num_skipped": self.num_skipped,
            "skipped_in_a_row": self._skipped_in_a_row,
            "stream": merge_states(self.ranks.gather(self.stream.state_dict())),
            "fingerprint": self.stream.fingerprint,
            "config": self.config.as_plain(),
            "callbacks": {callback.name: callback.state_dict() for callback in self.callbacks if callback.name},
        }
        keep = self.config.checkpoint.keep
        folder = save_checkpoint(self.folder.checkpoints, self.step, self.engine, self.ranks, state, keep)
        self._saved_step = self.step
        self._call("on_checkpoint", folder.name)

    def _train_step(self) -> None:
        start = time.perf_counter()
        self._call("on_step_start")
        waiting = time.perf_counter()
        batch = self.stream.next_batch()
        self.data_seconds = time.perf_counter() - waiting
        self._check_tokens(batch)
        labels = shifted_labels(batch)
        [num_valid] = self.ranks.sum([int((labels != IGNORED).sum())])
        per_rank = self.config.global_batch_size // self.ranks.world_size
        num_tokens = self.config.global_batch_size * self.config.sequence_length
        by_valid = self.config.loss.denominator is LossDenominator.valid_tokens
        denominator = max(1, num_valid if by_valid else num_tokens)
        sums = torch.zeros(3, dtype=torch.float64, device=self.engine.device)
        for first in range(0, per_rank, self.engine.micro_batch_size):
            micro = self._micro_batch(batch, labels, slice(first, first + self.engine.micro_batch_size))
            losses = self.engine.accumulate(micro, denominator)
            sums += torch.stack([losses.ce, losses.z, losses.total])
        rate = learning_rate(self.step, self.config.optimizer.lr, self.config.schedule)
        self._call("on_gradients")
        self.update = self.engine.update(rate, repo_factor(self.step, self.config.optimizer))
        self._count_skip(self.update.applied)
        self.tokens += num_tokens
        self.record("tokens", self.tokens)
        self._record_losses(sums, num_valid, denominator)
        self.record("optim/lr", rate)
        self.record("optim/grad_norm", self.update.grad_norm)
        self.record("optim/skipped", self.num_skipped)
        self.step_seconds = time.perf_counter() - start

    def _micro_batch(self, batch: Batch, labels: np.ndarray, rows: slice) -> MicroBatch:
        device = self.engine.device
        return MicroBatch(
            tokens_bt=torch.from_numpy(batch.tokens[rows].astype(np.int64)).to(device, non_blocking=True),
            labels_bt=torch.from_numpy(labels[rows]).to(device, non_blocking=True),
            documents=Documents.from_boundaries(batch.boundaries[rows], device) if self.config.mask_documents else None,
        )

    def _record_losses(self, sums: torch.Tensor, num_valid: int, denominator: int) -> None:
        """Cross entropy and z-loss are means over valid tokens; the total is what was differentiated."""
        if self.is_logged:
            if self.ranks.world_size > 1:
                dist.all_reduce(sums)
            per_valid = sums / max(1, num_valid)
            self.record("train/ce_loss", per_valid[0])
            self.record("train/z_loss", per_valid[1])
            self.record("train/loss", sums[2] / denominator)

    def _count_skip(self, applied: bool) -> None:
        self._skipped_in_a_row = 0 if applied else self._skipped_in_a_row + 1
        self.num_skipped += not applied
        if self._skipped_in_a_row >= self.config.engine.max_skipped_updates:
            raise TrainError(
                f"the gradients of {self._skipped_in_a_row} updates in a row, up to step {self.step}, were not finite "
                "and were dropped: resume from the last checkpoint with a lower optimizer.lr, or look at the data"
            )

    def _check_tokens(self, batch: Batch) -> None:
        largest = int(batch.tokens.max())
        if largest >= self.config.model.vocab_size:
            raise TrainError(
                f"the data holds token id {largest}, but model.vocab_size={self.config.model.vocab_size}: "
                "the files were made with another tokenizer, or are damaged"
            )

    def _log(self) -> None:
        if self.is_logged:
            metrics = {name: v.tolist() if isinstance(v, torch.Tensor) else v for name, v in self._metrics.items()}
            self._call("on_metrics", {"step": self.step, **metrics})
        self._metrics = {}

    def _restore(self, checkpoint: Checkpoint) -> None:
        state = load_checkpoint(checkpoint, self.engine, self.ranks)
        self.step = self._saved_step = state["step"]
        self.tokens = state["tokens"]
        self.num_skipped = state["num_skipped"]
        self._skipped_in_a_row = state["skipped_in_a_row"]
        self.stream.load_state_dict(state["stream"])
        for callback in self.callbacks:
            if callback.name in state["callbacks"]:
                callback.load_state_dict(state["callbacks"][callback.name])

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._signal = signal.Signals(number).name

    def _stop_requested(self) -> bool:
        """Whether any rank has been told to stop: all must agree on the step at which they do."""
        return self.ranks.sum([(self._signal or self._stop_reason) is not None])[0] > 0

    def _call(self, hook: str, *arguments: Any) -> None:
        for callback in self.callbacks:
            getattr(callback, hook)(self, *arguments)


def shifted_labels(batch: Batch) -> np.ndarray:
    """int64 `[R, T]`: the next token of each row; nothing after the last, and nothing at all in a masked row."""
    labels = np.full(batch.tokens.shape, IGNORED, dtype=np.int64)
    labels[:, :-1] = batch.tokens[:, 1:]
    labels[~batch.loss_mask] = IGNORED
    return labels
