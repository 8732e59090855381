"""The trainer owns time: steps, tokens, signals, stopping. Everything periodic is a callback."""

import contextlib
import math
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from data.errors import DataError
from data.stream import Batch, BatchStream, merge_states
from model.attention import Documents
from model.loss import IGNORED
from report.metrics import CE_LOSS, GRAD_NORM, LEARNING_RATE, LOSS, SKIPPED, STEP, TOKENS, Z_LOSS
from report.run_folder import FINISHED
from train.callbacks.callback import Callback
from train.checkpoint import Checkpoint, Layout, Saver, load_checkpoint
from train.config import LossDenominator, RunConfig
from train.distributed import Ranks, is_lost_connection
from train.engine import Engine, MicroBatch, Update
from train.errors import AgreedError, BadNumbersError, LostDataError, SaveError
from train.guard import SpikeGuard
from train.run_folder import RunFolder
from train.schedule import learning_rate, repo_factor
from train.signals import StopSignals
from train.watch.alert import Alert
from train.watchdog import Watchdog

BRIEF_HOOKS = ("on_step_start", "on_update", "on_skip", "on_metrics")  # the others may save, evaluate, export


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
        watchdog: Watchdog,
    ) -> None:
        self.config = config
        self.ranks = ranks
        self.folder = folder
        self.engine = engine
        self.stream = stream
        self.callbacks = callbacks
        self.watchdog = watchdog
        self.guard = SpikeGuard(config.guard)
        self.step = 0  # of the update at hand, counted from 1; after it, updates done
        self.tokens = 0  # read so far, over all ranks
        self.num_skipped = 0  # updates dropped so far: not finite, or refused by the guard
        self.step_seconds = 0.0  # of the last step, and the part of it that waited for data
        self.data_seconds = 0.0
        self.update = Update(grad_norm=0.0, applied=True)  # what became of the last one
        self._skipped_in_a_row = 0
        self._metrics: dict[str, Any] = {}
        self._signals = StopSignals(is_main=ranks.is_main)
        self._told_to_stop: str | None = None
        self._saved_step = -1
        self._layout = Layout.of(config, ranks.world_size, engine.precision)
        self._saver = Saver(folder.checkpoints, config.checkpoint, self._layout, ranks)

    @property
    def is_logged(self) -> bool:
        """Whether the metrics of this step go to the sinks."""
        return self.step % self.config.logging.interval == 0 or self.step == self.config.max_steps

    def fit(self, checkpoint: Checkpoint | None) -> str:
        """Train from `checkpoint`, or from the engine's weights, to the last step or a stop; returns why it ended."""
        if checkpoint is not None:
            self._restore(checkpoint)
        with self._signals:
            try:
                self._call("on_start")
                while self.step < self.config.max_steps:
                    self.step += 1
                    self.watchdog.step = self.step
                    self._train_step()
                    self._call("on_update")
                    self._log()
                    self._call("on_step_end")
                    if self.stop_requested():
                        break
                reason = FINISHED if self.step >= self.config.max_steps else self._stop_reason()
                self.save()
                self.finish_save()
                self._call("on_stop", reason)
            except AgreedError as error:
                with contextlib.suppress(SaveError):
                    self.finish_save()  # what is being written is of a step before
                self._call("on_stop", str(error))
                self.ranks.barrier()  # the end of one rank would end the others before they have said all
                raise
            except RuntimeError as error:
                if self._signals.received and is_lost_connection(error):  # because of a rank that has said why
                    raise EndedError(self._signals.received) from error
                raise
            finally:
                self.stream.close()
                for callback in self.callbacks:
                    callback.close()
        return reason

    def stop_requested(self) -> bool:
        """Whether any rank has been told to stop. All ranks ask at the same moments: they must agree on the step.

        A callback that takes long asks in between, and returns when it is so.
        """
        return self.ranks.sum([(self._told_to_stop or self._signals.received) is not None])[0] > 0

    def record(self, name: str, value: Any) -> None:
        """Add a metric to this step: a number, a tensor, or a list of numbers."""
        self._metrics[name] = value

    def alert(self, alert: Alert) -> None:
        """Tell all callbacks what the position watch found; every rank calls it."""
        self._call("on_alert", alert)

    def stop(self, reason: str) -> None:
        """End the run after this step, with a checkpoint; every rank calls it."""
        self._told_to_stop = reason

    def save(self) -> None:
        """Publish a checkpoint of the current step, unless that has been done; in the background, if so configured.

        Raises SaveError, on all ranks, if it cannot be written, and BadNumbersError if a weight is not finite.
        """
        self._save(self.stream.state_dict())

    def _save(self, position: dict[str, Any]) -> None:
        if self._saved_step == self.step:
            return
        try:
            self.finish_save()
        except SaveError as error:  # of an earlier step: this one is worth more
            self.go_on_without_saving(error)
        self.watchdog.enter("saving a checkpoint")
        if self.ranks.sum([not self.engine.is_finite()])[0]:
            raise BadNumbersError(
                f"the weights or the optimizer's state are not finite after step {self.step}, and were not saved: "
                "run it again from the last checkpoint with a lower optimizer.lr, or with guard=spikes"
            )
        state = {
            "step": self.step,
            "tokens": self.tokens,
            "num_skipped": self.num_skipped,
            "skipped_in_a_row": self._skipped_in_a_row,
            "guard": self.guard.state_dict(),
            "stream": merge_states(self.ranks.gather(position)),
            "fingerprint": self.stream.fingerprint,
            "config": self.config.as_plain(),
            "callbacks": {callback.name: callback.state_dict() for callback in self.callbacks if callback.name},
        }
        self._saver.begin(self.step, self.engine, state)
        self._saved_step = self.step
        if not self.config.checkpoint.background:
            self.finish_save()

    def finish_save(self, *, wait: bool = True) -> None:
        """Publish what is being written in the background; without `wait`, only if every rank has written its files."""
        try:
            folder = self._saver.finish(wait=wait)
        except SaveError:
            self._saved_step = -1
            raise
        if folder is not None:
            self._call("on_checkpoint", folder.name)

    def go_on_without_saving(self, error: SaveError) -> None:
        """Report a checkpoint that could not be written, where a later one can make up for it."""
        self._call("on_save_failed", str(error))

    def _train_step(self) -> None:
        start = time.perf_counter()
        self._call("on_step_start")
        batch, labels, num_valid = self._next_batch()
        per_rank = self.config.global_batch_size // self.ranks.world_size
        num_tokens = self.config.global_batch_size * self.config.sequence_length
        by_valid = self.config.loss.denominator is LossDenominator.valid_tokens
        denominator = max(1, num_valid if by_valid else num_tokens)
        sums = torch.zeros(3, dtype=torch.float64, device=self.engine.device)
        for first in range(0, per_rank, self.engine.micro_batch_size):
            self.watchdog.enter("forward and backward", is_step=True)
            micro = self._micro_batch(batch, labels, slice(first, first + self.engine.micro_batch_size))
            losses = self.engine.accumulate(micro, denominator)
            sums += torch.stack([losses.ce, losses.z, losses.total])
        self.watchdog.enter("update", is_step=True)
        if self.ranks.world_size > 1 and (self.is_logged or self.guard.is_on):
            dist.all_reduce(sums)
        rate = learning_rate(self.step, self.config.optimizer.lr, self.config.schedule)
        self._call("on_gradients")
        self.update = self._update(rate, sums[2] / denominator)
        self.tokens += num_tokens
        self.record(TOKENS, self.tokens)
        # Cross entropy and z-loss are means over valid tokens; the total is what was differentiated.
        self.record(CE_LOSS, sums[0] / max(1, num_valid))
        self.record(Z_LOSS, sums[1] / max(1, num_valid))
        self.record(LOSS, sums[2] / denominator)
        self.record(LEARNING_RATE, rate)
        self.record(GRAD_NORM, self.update.grad_norm)
        self.record(SKIPPED, self.num_skipped)
        self.step_seconds = time.perf_counter() - start

    def _next_batch(self) -> tuple[Batch, np.ndarray, int]:
        """This rank's rows, their labels `[R, T]`, and how many of those count over all ranks.

        Where a rank cannot read on, all learn of it here, save what was done before this step, and raise LostDataError.
        """
        self.watchdog.enter("waiting for data")
        position, complaint, num_valid = self.stream.state_dict(), None, 0
        start = time.perf_counter()
        try:
            batch = self.stream.next_batch()
            self._check_tokens(batch)
            labels = shifted_labels(batch)
            num_valid = int((labels != IGNORED).sum())
        except DataError as error:
            complaint = str(error)
        except (OSError, RuntimeError) as error:  # a mount that is gone; a data worker that was killed
            complaint = f"the data cannot be read: {(str(error) or repr(error)).splitlines()[0]}"
        self.data_seconds = time.perf_counter() - start
        self.watchdog.enter("waiting for the other ranks' data")
        num_valid, num_failed = self.ranks.sum([num_valid, complaint is not None])
        if num_failed:
            self.step -= 1
            if self.step:
                self._save(position)
                self.finish_save()
            first = next(text for text in self.ranks.gather(complaint) if text)
            raise LostDataError(f"{first}; what was trained, up to step {self.step}, is saved")
        return batch, labels, num_valid

    def _update(self, rate: float, loss: torch.Tensor) -> Update:
        """Apply what has accumulated, unless it is not finite or the guard refuses it."""
        reasons: list[str] = []

        def accept(grad_norm: float) -> bool:
            if reason := self.guard.judge(float(loss), grad_norm):
                reasons.append(reason)
            return not reasons

        factor = repo_factor(self.step, self.config.optimizer)
        update = self.engine.update(rate, factor, accept if self.guard.is_on else None)
        if update.applied:
            self._skipped_in_a_row = 0
            return update
        self.num_skipped += 1
        self._skipped_in_a_row += not math.isfinite(update.grad_norm)
        self._call("on_skip", reasons[0] if reasons else "a gradient or loss was not finite")
        if self._skipped_in_a_row >= self.config.engine.max_skipped_updates:
            raise BadNumbersError(
                f"the gradients of {self._skipped_in_a_row} updates in a row, up to step {self.step}, were not finite "
                "and were dropped: resume from the last checkpoint with a lower optimizer.lr, or look at the data"
            )
        return update

    def _micro_batch(self, batch: Batch, labels: np.ndarray, rows: slice) -> MicroBatch:
        device = self.engine.device
        return MicroBatch(
            tokens_bt=torch.from_numpy(batch.tokens[rows].astype(np.int64)).to(device, non_blocking=True),
            labels_bt=torch.from_numpy(labels[rows]).to(device, non_blocking=True),
            documents=Documents.from_boundaries(batch.boundaries[rows], device) if self.config.mask_documents else None,
        )

    def _check_tokens(self, batch: Batch) -> None:
        largest = int(batch.tokens.max())
        if largest >= self.config.model.vocab_size:
            raise DataError(
                f"the data holds token id {largest}, but model.vocab_size={self.config.model.vocab_size}: "
                "the files were made with another tokenizer, or are damaged"
            )

    def _log(self) -> None:
        if self.is_logged:
            metrics = {name: v.tolist() if isinstance(v, torch.Tensor) else v for name, v in self._metrics.items()}
            self._call("on_metrics", {STEP: self.step, **metrics})
        self._metrics = {}

    def _restore(self, checkpoint: Checkpoint) -> None:
        state = load_checkpoint(checkpoint, self.engine, self._layout, self.ranks, self.config.seed)
        self.step = self._saved_step = state["step"]
        self.tokens = state["tokens"]
        self.num_skipped = state["num_skipped"]
        self._skipped_in_a_row = state["skipped_in_a_row"]
        self.guard.load_state_dict(state["guard"])
        self.stream.load_state_dict(state["stream"])
        for callback in self.callbacks:
            if callback.name in state["callbacks"]:
                callback.load_state_dict(state["callbacks"][callback.name])

    def _stop_reason(self) -> str:
        return self._told_to_stop or self._signals.received or "signal on another rank"

    def _call(self, hook: str, *arguments: Any) -> None:
        for callback in self.callbacks:
            self.watchdog.enter(hook, of=callback, is_step=hook in BRIEF_HOOKS)
            getattr(callback, hook)(self, *arguments)


def shifted_labels(batch: Batch) -> np.ndarray:
    """int64 `[R, T]`: the next token of each row; nothing after the last, and nothing at all in a masked row."""
    labels = np.full(batch.tokens.shape, IGNORED, dtype=np.int64)
    labels[:, :-1] = batch.tokens[:, 1:]
    labels[~batch.loss_mask] = IGNORED
    return labels
