"""The trainer owns time: steps, tokens, signals, stopping. Everything periodic is a callback."""

import math
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from data.errors import DataError
from data.fetch.remote import is_remote
from data.stream import Batch, BatchStream, merge_states
from model.loss import IGNORED
from report.metrics import CE_LOSS, GRAD_NORM, LEARNING_RATE, LOSS, SKIPPED, STEP, TOKENS, Z_LOSS
from train.callbacks.callback import Callback
from train.callbacks.group import CallbackGroup
from train.checkpoint.checkpoints import Checkpoints
from train.checkpoint.rollback import plain_rollbacks, rate_factor
from train.checkpoint.store import Checkpoint
from train.config import RunConfig
from train.distributed import Ranks, is_lost_connection
from train.engine.engine import Engine, MicroBatch, Update
from train.errors import BadNumbersError, CollectiveError, LostDataError, Stop, StopReason
from train.guard import SpikeGuard
from train.loss_config import LossDenominator
from train.micro_batches import shifted_labels, to_micro_batch
from train.run_folder import RunFolder
from train.schedule import learning_rate, positions_factor
from train.signals import StopSignals
from train.watch.alert import Alert
from train.watchdog import Watchdog


class LostPeersError(Exception):
    """This rank was asked to stop, and its connection to the others broke before the step was done."""


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
        checkpoints: Checkpoints,
        watchdog: Watchdog,
        signals: StopSignals,
    ) -> None:
        self.config = config
        self.ranks = ranks
        self.folder = folder
        self.engine = engine
        self.stream = stream
        self.callbacks = CallbackGroup(callbacks, ranks, watchdog)
        self.checkpoints = checkpoints
        self.watchdog = watchdog
        self.guard = SpikeGuard(config.guard)
        self.step = 0
        """Number of the current update, from 1; after it, updates done."""
        self.tokens = 0
        """Tokens read so far, over all ranks."""
        self.num_skipped = 0
        """Updates dropped so far: not finite, or refused by the guard."""
        self.step_seconds = 0.0
        """Duration of the last step."""
        self.data_seconds = 0.0
        """The part of it that waited for data."""
        self.update = Update(grad_norm=0.0, applied=True)
        """The last update."""
        self.is_cut_short = False
        """Whether a callback left work of the last step to the next start, because a stop was requested."""
        self._skipped_in_a_row = 0
        self._metrics: dict[str, Any] = {}
        self._signals = signals
        self._stop: Stop | None = None  # asked for by a callback
        self._rolls_back = False
        checkpoints.report_to(partial(self.callbacks.on_checkpoint, self), partial(self.callbacks.on_save_failed, self))

    @property
    def max_steps(self) -> int:
        """Number of the last step."""
        return self.config.max_steps

    @property
    def until(self) -> int:
        """Number of the step that this start ends with: the last one, or the config's stop_step."""
        return self.config.stop_step or self.max_steps

    @property
    def is_logged(self) -> bool:
        """Whether the metrics of this step are logged."""
        return self.step % self.config.logging.interval == 0 or self.step in (self.until, self.max_steps)

    def fit(self, checkpoint: Checkpoint | None) -> Stop:
        """Trains from `checkpoint`, or from the engine's weights, until the end, stop_step or a stop; returns why.

        Raises a CollectiveError after the callbacks have heard of it, and LostPeersError.
        """
        if checkpoint is not None:
            self._restore(checkpoint)
        with self._signals:
            try:
                return self._fit()
            except RuntimeError as error:
                if self._signals.received and is_lost_connection(error):  # caused by a rank that says why
                    raise LostPeersError(self._signals.received) from error
                raise
            finally:
                self.stream.close()
                self.callbacks.close()

    def _fit(self) -> Stop:
        error: CollectiveError | None = None
        try:
            stop = self._train()
        except CollectiveError as caught:
            error, stop = caught, Stop(caught.reason, str(caught))
            self._finish_save()
        self.callbacks.on_stop(self, stop)
        if error is not None:
            self.ranks.barrier()  # the end of one rank would end the others before they have said all
            raise error
        return stop

    def _train(self) -> Stop:
        self.callbacks.on_start(self)
        while self.step < self.until and not self.is_cut_short:
            self.step += 1
            self.watchdog.step = self.step
            self._train_step()
            self.callbacks.on_update(self)
            self.callbacks.on_evaluate(self)
            self._log()
            self.callbacks.on_step_end(self)
            self.watchdog.enter("asking all ranks whether to stop")
            if self.stop_requested():
                break
        if self._rolls_back:  # what came after the alert is not saved; a signal ends the run before it goes back
            is_stopped = self.ranks.sum([self._signals.received is not None])[0] > 0
            return self._signalled() if is_stopped else Stop(StopReason.rollback)
        self.save(required=True)
        if self.step < self.until or self.is_cut_short:
            return self._stop or self._signalled()
        if self.step < self.max_steps:
            return Stop(StopReason.stop_step)
        self.callbacks.on_finish(self)
        return Stop(StopReason.finished)

    def _signalled(self) -> Stop:
        return Stop(StopReason.signal, self._signals.received or "signal on another rank")

    def stop_requested(self) -> bool:
        """Returns whether any rank was asked to stop. All ranks call it at the same moments: they must agree.

        A callback that takes long calls it in between, and returns when it is true.
        """
        is_asked = self._stop is not None or self._rolls_back or self._signals.received is not None
        return self.ranks.sum([is_asked])[0] > 0

    def record(self, name: str, value: Any) -> None:
        """Adds a metric to this step: a number, a tensor, or a list of numbers."""
        self._metrics[name] = value

    def log(self, metrics: dict[str, Any]) -> None:
        """Hands metrics of `self.step` to the callbacks at once; every rank calls it."""
        plain = {name: v.tolist() if isinstance(v, torch.Tensor) else v for name, v in metrics.items()}
        self.callbacks.on_metrics(self, {STEP: self.step, **plain})

    def alert(self, alert: Alert) -> None:
        """Tells all callbacks what the position watch found; every rank calls it."""
        self.callbacks.on_alert(self, alert)

    def probed(self, path: Path) -> None:
        """Tells all callbacks that the positions of the probe texts are written; every rank calls it."""
        self.callbacks.on_probe(self, path)

    def stop(self, stop: Stop) -> None:
        """Ends the run after this step, with a checkpoint; every rank calls it."""
        self._stop = stop

    def roll_back(self, alert: Alert) -> None:
        """Ends the loop after this step, so that the run starts again from before the alert; every rank calls it.

        Stops the run, with a checkpoint, if it cannot go back, or has done so too often.
        """
        refusal = self.checkpoints.roll_back(self.step, alert)
        if refusal is None:
            self._rolls_back = True
        else:
            self._stop = Stop(StopReason.alert, refusal)

    def save(self, *, required: bool = False) -> None:
        """Saves a checkpoint of the current step, unless that is done, or the run is about to go back.

        A failure is reported and training continues. Raises SaveError if the save is required, and BadNumbersError.
        """
        if self._rolls_back:  # it could delete the checkpoint that the run goes back to
            return
        self._save(self.stream.state_dict(), required)

    def _save(self, cursor: dict[str, Any], required: bool) -> None:
        self._finish_save()
        # A save in the background takes the time of a copy, until the last one, for which training waits.
        self.watchdog.enter("saving the last checkpoint" if required else "saving a checkpoint", varies=required)
        self.checkpoints.save(self.step, self.engine, partial(self._state, cursor), required=required)

    def _finish_save(self) -> None:
        """Waits for an earlier step's save in the background, whatever is left of it."""
        self.watchdog.enter("waiting for an earlier checkpoint to be written", varies=True)
        self.checkpoints.finish()

    def _state(self, cursor: dict[str, Any]) -> dict[str, Any]:
        return {
            "step": self.step,
            "tokens": self.tokens,
            "num_skipped": self.num_skipped,
            "skipped_in_a_row": self._skipped_in_a_row,
            "guard": self.guard.state_dict(),
            "stream": merge_states(self.ranks.gather(cursor)),
            "fingerprint": self.stream.fingerprint,
            "config": self.config.as_plain(),
            "callbacks": self.callbacks.state_dict(),
            "rollbacks": plain_rollbacks(self.checkpoints.rollbacks),
        }

    def _train_step(self) -> None:
        start = time.perf_counter()
        self.callbacks.on_step_start(self)
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
        self.callbacks.on_gradients(self)
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
        """Returns this rank's rows, their labels [R, T], and the number of valid labels over all ranks.

        If a rank cannot read its data, all ranks save the steps before this one and raise LostDataError.
        """
        self.watchdog.enter("waiting for data", varies=is_remote(self.config.data.root))  # files come in any size
        cursor, problem, num_valid = self.stream.state_dict(), None, 0
        start = time.perf_counter()
        try:
            batch = self.stream.next_batch()
            self._check_tokens(batch)
            after, eos = self.config.loss.answers_after, self.config.model.eos_token_id
            labels = shifted_labels(batch.tokens, batch.loss_mask, after, eos)
            num_valid = int((labels != IGNORED).sum())
        except DataError as error:
            problem = str(error)
        self.data_seconds = time.perf_counter() - start
        self.watchdog.enter("waiting for the other ranks' data")
        num_valid, num_failed = self.ranks.sum([num_valid, problem is not None])
        if num_failed:
            self.step -= 1
            if self.step:
                self._save(cursor, required=True)
            first = next(text for text in self.ranks.gather(problem) if text)
            raise LostDataError(f"{first}; what was trained, up to step {self.step}, is saved")
        return batch, labels, num_valid

    def _update(self, rate: float, loss: torch.Tensor) -> Update:
        """Applies the accumulated gradient, unless it is not finite or the guard refuses it."""
        reasons: list[str] = []

        def accept(grad_norm: float) -> bool:
            if reason := self.guard.judge(float(loss), grad_norm):
                reasons.append(reason)
            return not reasons

        factor = positions_factor(self.step, self.config.optimizer)
        factor *= rate_factor(self.checkpoints.rollbacks, self.step)
        update = self.engine.update(rate, factor, accept if self.guard.is_on else None)
        if update.applied:
            self._skipped_in_a_row = 0
            return update
        self.num_skipped += 1
        self._skipped_in_a_row += not math.isfinite(update.grad_norm)
        self.callbacks.on_skip(self, reasons[0] if reasons else "a gradient or loss was not finite")
        if self._skipped_in_a_row >= self.config.engine.max_skipped_updates:
            advice = self.checkpoints.advice(self.step - self._skipped_in_a_row)
            raise BadNumbersError(
                f"the gradients of {self._skipped_in_a_row} updates in a row, up to step {self.step}, were not finite "
                f"and were dropped: {advice} with a lower optimizer.lr, or look at the data"
            )
        return update

    def _micro_batch(self, batch: Batch, labels: np.ndarray, rows: slice) -> MicroBatch:
        boundaries = batch.boundaries[rows] if self.config.mask_documents else None
        return to_micro_batch(batch.tokens[rows], labels[rows], boundaries, self.engine.device)

    def _check_tokens(self, batch: Batch) -> None:
        largest = int(batch.tokens.max())
        if largest >= self.config.model.vocab_size:
            raise DataError(
                f"the data holds token id {largest}, but model.vocab_size={self.config.model.vocab_size}: "
                "the files were made with another tokenizer, or are damaged"
            )

    def _log(self) -> None:
        if self.is_logged:
            self.log(self._metrics)
        self._metrics = {}

    def _restore(self, checkpoint: Checkpoint) -> None:
        state = self.checkpoints.restore(checkpoint, self.engine)
        self.step = state["step"]
        self.tokens = state["tokens"]
        self.num_skipped = state["num_skipped"]
        self._skipped_in_a_row = state["skipped_in_a_row"]
        self.guard.load_state_dict(state["guard"])
        self.stream.load_state_dict(state["stream"])
        self.callbacks.load_state_dict(state["callbacks"])
