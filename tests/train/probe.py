"""Runs that a test can look into, stop and break at a chosen step."""

import gc
import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from report.run_folder import RunFiles
from tests.distributed import freeze_modules
from train.__main__ import train
from train.callbacks.callback import Callback, StatefulCallback, TrainerInterface
from train.config import RunConfig
from train.distributed import Ranks
from train.errors import Stop


class CrashError(Exception):
    """What a test breaks a run with."""


@dataclass
class Outcome:
    """What one rank saw of one start of a run."""

    reason: str = ""  # why the loop ended: the detail of the stop, or the message of what was raised
    rows: list[np.ndarray] = field(default_factory=list)  # per step, the tokens that the model read: [R, T]
    draws: list[float] = field(default_factory=list)  # per step, a random number of torch's default generator
    collects: list[bool] = field(default_factory=list)  # per step, and after the run, whether Python collects garbage
    steps: int = 0  # counted in the checkpoint: over all starts of the run
    learned: list[str] = field(default_factory=list)  # places whose usual duration the watchdog has learned


class Probe(StatefulCallback):
    """Records, and ends the run after a step: by a signal to one rank, or by an exception."""

    name = "probe"

    def __init__(self, outcome: Outcome, *, stop_rank: int | None, stop_step: int, crash_step: int) -> None:
        self._outcome = outcome
        self._stop = (stop_rank, stop_step)
        self._crash_step = crash_step

    def on_start(self, trainer: TrainerInterface) -> None:
        trainer.engine.model.register_forward_pre_hook(self._listen)
        if trainer.step == 0:
            torch.manual_seed(trainer.ranks.rank)

    def on_step_start(self, trainer: TrainerInterface) -> None:
        self._outcome.rows.append(np.empty((0, trainer.config.sequence_length), np.int64))

    def on_update(self, trainer: TrainerInterface) -> None:
        self._outcome.steps += 1
        self._outcome.draws.append(float(torch.rand(())))
        self._outcome.collects.append(gc.isenabled())

    def on_step_end(self, trainer: TrainerInterface) -> None:
        if self._stop == (trainer.ranks.rank, trainer.step):
            os.kill(os.getpid(), signal.SIGTERM)
        if trainer.step == self._crash_step:
            raise CrashError(f"broken after step {trainer.step}")

    def on_stop(self, trainer: TrainerInterface, stop: Stop) -> None:
        self._outcome.reason = stop.detail or stop.reason.word
        self._outcome.learned = list(cast(Any, trainer).watchdog.longest)

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self._outcome.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._outcome.steps = state["steps"]

    def _listen(self, module: torch.nn.Module, inputs: tuple[Any, ...]) -> None:
        if torch.is_grad_enabled():  # not what a callback looks at beside the training
            self._outcome.rows[-1] = np.concatenate([self._outcome.rows[-1], inputs[0].numpy()])


def start(
    config: RunConfig,
    ranks: Ranks,
    *,
    stop_rank: int | None = None,
    stop_step: int = 0,
    crash_step: int = 0,
    callbacks: Sequence[Callback] = (),
) -> Outcome:
    """`train.__main__.train` with a probe among the callbacks; errors become the outcome's reason."""
    outcome = Outcome()
    probe = Probe(outcome, stop_rank=stop_rank, stop_step=stop_step, crash_step=crash_step)
    gc.enable()
    torch.manual_seed(99)  # nothing of an earlier start is left in this process
    try:
        train(config, ranks, [probe, *callbacks])
    except (CrashError, ValueError) as error:
        outcome.reason = str(error)
    outcome.collects.append(gc.isenabled())
    freeze_modules()
    ranks.barrier()
    return outcome


def metrics(root: Path, name: str) -> list[dict[str, Any]]:
    """The rows of a run's metrics.jsonl without what a clock says."""
    rows = RunFiles(root / "runs" / name).read_metrics()
    return [{key: value for key, value in row.items() if not key.startswith("throughput/")} for row in rows]


def events(root: Path, name: str) -> list[dict[str, Any]]:
    """The events of a run that count, without their times."""
    rows = RunFiles(root / "runs" / name).read_events()
    return [{key: value for key, value in row.items() if key != "time"} for row in rows]
