"""What a person sees: a live bar on a terminal, a plain line now and then anywhere else."""

import logging
import os
import sys
import time
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from rich.console import Console as RichConsole
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from report.metrics import CE_LOSS, GRAD_NORM, LEARNING_RATE, MFU, OPEN_ALERTS, SKIPPED, TOKENS_PER_SECOND
from train.callbacks.callback import Callback
from train.config import RunConfig
from train.watch.alert import Alert

if TYPE_CHECKING:
    from train.trainer import Trainer

logger = logging.getLogger(__name__)


def summary(metrics: dict[str, Any]) -> str:
    """The metrics that a person follows, in one short line."""
    parts = [f"loss {metrics[CE_LOSS]:.4f}", f"lr {metrics[LEARNING_RATE]:.2e}"]
    parts.append(f"grad {metrics[GRAD_NORM]:.2f}")
    parts.append(f"{human(metrics[TOKENS_PER_SECOND])} tok/s")
    if MFU in metrics:
        parts.append(f"MFU {metrics[MFU]:.1%}")
    if metrics.get(OPEN_ALERTS):
        parts.append(f"alerts {metrics[OPEN_ALERTS]}")
    if metrics[SKIPPED]:
        parts.append(f"skipped {metrics[SKIPPED]}")
    return "  ".join(parts)


def human(number: float) -> str:
    """12345 -> 12.3k."""
    for unit in ("", "k", "M", "G"):
        if abs(number) < 1000 or unit == "G":
            return f"{number:.0f}{unit}" if unit == "" else f"{number:.1f}{unit}"
        number /= 1000
    raise AssertionError("unreachable")


class Screen(RichConsole):
    """Standard output that goes quiet when its reader goes away (`| head`), instead of ending the run."""

    def on_broken_pipe(self) -> None:
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class ConsoleReport(Callback):
    """Progress on standard output, from the main rank."""

    def __init__(self, config: RunConfig) -> None:
        self._config = config
        self._console = Screen(highlight=False, soft_wrap=True)
        self._progress: Progress | None = None
        self._started = (0, 0.0)

    def on_start(self, trainer: "Trainer") -> None:
        if not trainer.ranks.is_main:
            return
        engine, config = trainer.engine, self._config
        begin = f"resuming after step {trainer.step}" if trainer.step else "starting"
        self._say(
            f"{config.name}: {begin}, {config.max_steps} steps of {config.global_batch_size} x "
            f"{config.sequence_length} tokens; {trainer.ranks.world_size} x {engine.device.type}, ZeRO "
            f"{engine.zero_stage}, {engine.precision.value}; positions {config.positions.scheme.value}"
        )
        self._started = (trainer.step, time.perf_counter())
        if self._console.is_terminal:
            self._progress = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=None),
                MofNCompleteColumn(),
                TextColumn("{task.fields[summary]}"),
                TextColumn("ETA"),
                TimeRemainingColumn(),
                console=self._console,
            )
            self._progress.add_task(config.name, total=config.max_steps, completed=trainer.step, summary="")
            self._progress.start()

    def on_metrics(self, trainer: "Trainer", metrics: dict[str, Any]) -> None:
        if not trainer.ranks.is_main:
            return
        step, last = metrics["step"], self._config.max_steps
        if self._progress is not None:
            self._progress.update(self._progress.task_ids[0], completed=step, summary=summary(metrics))
        elif step % self._config.logging.console_interval == 0 or step in (1, last):
            first, then = self._started
            remaining = (time.perf_counter() - then) / (step - first) * (last - step)
            self._say(f"step {step}/{last}  {summary(metrics)}  ETA {timedelta(seconds=round(remaining))}")

    def on_skip(self, trainer: "Trainer", reason: str) -> None:
        if trainer.ranks.is_main:
            self._say(f"step {trainer.step}: the update was not applied: {reason}")

    def on_alert(self, trainer: "Trainer", alert: Alert) -> None:
        if trainer.ranks.is_main:
            self._say(f"{alert.event} at step {trainer.step}: {alert.message}")

    def on_checkpoint(self, trainer: "Trainer", folder: str) -> None:
        if trainer.ranks.is_main:
            self._say(f"saved {trainer.folder.checkpoints / folder}")

    def on_save_failed(self, trainer: "Trainer", reason: str) -> None:
        if trainer.ranks.is_main:
            logger.warning("%s; training goes on, and saves again at the next interval", reason)

    def close(self) -> None:
        if self._progress is not None:
            self._progress.stop()

    def _say(self, line: str) -> None:
        self._console.print(line, markup=False)
