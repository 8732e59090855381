"""Progress on standard output: a live bar on a terminal, plain lines anywhere else."""

import logging
import os
import sys
import time
from datetime import timedelta
from typing import Any

from rich.console import Console as RichConsole
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from common.words import counted
from report.metrics import (
    BUCKET_LOSS,
    CE_LOSS,
    EVAL_LOSS,
    EVAL_PERPLEXITY,
    GRAD_NORM,
    LEARNING_RATE,
    MFU,
    MFU_CAUSAL,
    OPEN_ALERTS,
    PEAK_GIB,
    PHASES,
    SKIPPED,
    SOURCE_LOSS,
    SOURCE_PERPLEXITY,
    STEP,
    STEP_SECONDS,
    TOKENS_PER_SECOND,
    evaluation_part,
)
from train.callbacks.callback import Callback, TrainerInterface
from train.watch.alert import Alert

logger = logging.getLogger(__name__)

PHASES_AFTER = 5  # steps of a start: the first ones compile and allocate
WHOLE = ((EVAL_LOSS, "eval loss", 4), (EVAL_PERPLEXITY, "perplexity", 2))


def summary(metrics: dict[str, Any]) -> str:
    """Returns the main metrics in one short line."""
    parts = [f"loss {metrics[CE_LOSS]:.4f}", f"lr {metrics[LEARNING_RATE]:.2e}"]
    parts.append(f"grad {metrics[GRAD_NORM]:.2f}")
    parts.append(f"{human(metrics[TOKENS_PER_SECOND])} tok/s")
    if MFU in metrics:
        causal = f" (causal {metrics[MFU_CAUSAL]:.1%})" if MFU_CAUSAL in metrics else ""
        parts.append(f"MFU {metrics[MFU]:.1%}{causal}")
    if PEAK_GIB in metrics:
        parts.append(f"peak {metrics[PEAK_GIB]:.1f} GiB")
    if metrics.get(OPEN_ALERTS):
        parts.append(f"alerts {metrics[OPEN_ALERTS]}")
    if metrics[SKIPPED]:
        parts.append(f"skipped {metrics[SKIPPED]}")
    return "  ".join(parts)


def phase_summary(metrics: dict[str, Any]) -> str:
    """Returns the share of each phase in a step, in one short line; a phase of less than half a percent is left out."""
    whole = metrics[STEP_SECONDS]
    shares = {name: metrics[metric] / whole for name, metric in PHASES.items()}
    return "  ".join(f"{name} {share:.0%}" for name, share in shares.items() if share >= 0.005)


def evaluation_summary(metrics: dict[str, Any]) -> str:
    """Returns the results of an evaluation in one line, empty if there are none.

    Loss and perplexity over all labels, then the loss by source and by token index in the row, then all other results.
    """
    parts = [f"{label} {metrics[name]:.{digits}f}" for name, label, digits in WHOLE if name in metrics]
    for name, value in metrics.items():
        keys = [key for family in (SOURCE_LOSS, BUCKET_LOSS) if (key := family.key(name)) is not None]
        is_shown = name in (EVAL_LOSS, EVAL_PERPLEXITY) or SOURCE_PERPLEXITY.key(name) is not None
        part = evaluation_part(name)
        if part is not None and not is_shown:
            parts.append(f"{keys[0] if keys else part} {value:.3f}")
    return "  ".join(parts)


def human(number: float) -> str:
    """Returns a number in short form: 12345 -> 12.3k."""
    for unit in ("", "k", "M", "G"):
        if abs(number) < 1000 or unit == "G":
            return f"{number:.0f}{unit}" if unit == "" else f"{number:.1f}{unit}"
        number /= 1000
    raise AssertionError("unreachable")


class Screen(RichConsole):
    """Standard output that stops printing when its reader is gone (`| head`), instead of ending the run."""

    def on_broken_pipe(self) -> None:
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class ConsoleReport(Callback):
    """Prints the start, the metrics, alerts, checkpoints and skipped updates."""

    main_rank_only = True

    def __init__(self, interval: int, description: str) -> None:
        """Prints every `interval` steps where there is no terminal; `description` says what the run is."""
        self._interval = interval
        self._description = description
        self._console = Screen(highlight=False, soft_wrap=True)
        self._progress: Progress | None = None
        self._started = (0, 0.0)
        self._has_said_phases = False

    def on_start(self, trainer: TrainerInterface) -> None:
        engine, name = trainer.engine, trainer.config.name
        begin = f"resuming after step {trainer.step}" if trainer.step else "starting"
        self._say(
            f"{name}: {begin}, {counted(trainer.max_steps, 'step')} of {self._description}; "
            f"{trainer.ranks.world_size} x {engine.device.type}, ZeRO {engine.zero_stage}, {engine.precision.value}"
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
            self._progress.add_task(name, total=trainer.max_steps, completed=trainer.step, summary="")
            self._progress.start()

    def on_metrics(self, trainer: TrainerInterface, metrics: dict[str, Any]) -> None:
        step, last = metrics[STEP], trainer.max_steps
        evaluated = evaluation_summary(metrics)
        if evaluated:
            self._say(f"step {step}/{last}  {evaluated}")
        if CE_LOSS not in metrics:  # only an evaluation, which a stop had cut off
            return
        if self._progress is not None:
            self._progress.update(self._progress.task_ids[0], completed=step, summary=summary(metrics))
        elif step % self._interval == 0 or step in (1, last):
            first, then = self._started
            remaining = (time.perf_counter() - then) / (step - first) * (last - step)
            self._say(f"step {step}/{last}  {summary(metrics)}  ETA {timedelta(seconds=round(remaining))}")
        if not self._has_said_phases and (step >= self._started[0] + PHASES_AFTER or step == last):
            self._has_said_phases = True
            self._say(f"step {step}/{last}  {metrics[STEP_SECONDS]:.2f} s: {phase_summary(metrics)}")

    def on_skip(self, trainer: TrainerInterface, reason: str) -> None:
        self._say(f"step {trainer.step}: the update was not applied: {reason}")

    def on_alert(self, trainer: TrainerInterface, alert: Alert) -> None:
        self._say(f"{alert.event} at step {trainer.step}: {alert.message}")

    def on_checkpoint(self, trainer: TrainerInterface, folder: str) -> None:
        self._say(f"saved {trainer.folder.checkpoints / folder}")

    def on_save_failed(self, trainer: TrainerInterface, reason: str) -> None:
        logger.warning("%s; training continues, and saves again at the next interval", reason)

    def close(self) -> None:
        if self._progress is not None:
            self._progress.stop()

    def _say(self, line: str) -> None:
        self._console.print(line, markup=False)
