"""Weights & Biases: a view of the run folder that can be rebuilt from it.

report/panels.py says what a step looks like there.

The run id is in the run folder before `wandb.init`, and every row carries its step: a resumed run goes on as the same
W&B run, online and, once synced, offline, where each launch leaves a part of its own. Rows of steps that were done
again after a kill are the same to the bit, so it does not matter which of them W&B keeps.

Trouble with W&B never ends a run, and a server that is down or slow never holds it up: everything, the opening
included, is done by a thread of its own, in order. At the end it is waited for, but not for ever.

`python -m train.callbacks.weights_and_biases RUN_FOLDER` logs a whole run anew, from its metrics.jsonl.
"""

import argparse
import logging
import queue
import sys
import threading
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.json_lines import JsonLines, read_json_lines
from report.metrics import STEP, MetricTable
from report.panels import Panels, probe_pictures
from report.probes import probe_files
from train.callbacks.callback import Callback
from train.config import RunConfig, WandbMode
from train.run_folder import RunFolder
from train.watch.alert import Alert

if TYPE_CHECKING:
    from train.trainer import Trainer

logger = logging.getLogger(__name__)

MOST_WAITING = 10_000  # rows that are kept for a slow server
LAST_SECONDS = 60.0  # that the end of a run waits for W&B


def panels_of(config: RunConfig) -> Panels:
    """Returns what makes rows for W&B from the metrics of this run."""
    return Panels(
        MetricTable.of(config.as_plain()),
        picture_interval=config.wandb.picture_interval,
        sequence_length=config.sequence_length,
        num_frequencies=config.model.head_dim // 2,
    )


def run_id(folder: RunFolder) -> str:
    """The W&B id of a run: made once, kept in its folder."""
    path = folder.wandb / "run_id"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        part.write_text(uuid.uuid4().hex[:8])
        part.replace(path)
    return path.read_text().strip()


def open_run(config: RunConfig, folder: RunFolder, identity: str, mode: WandbMode) -> Any:
    """A W&B run that continues `identity` if the server has it."""
    import wandb

    return wandb.init(
        id=identity,
        resume="allow",
        mode=mode.value,
        dir=str(folder.path),
        name=config.name,
        project=config.wandb.project,
        entity=config.wandb.entity,
        group=config.wandb.group,
        tags=list(config.wandb.tags),
        config=config.as_plain(),
        settings=wandb.Settings(silent=True, console="off"),
    )


def send_once(run: Any, alert: Alert, step: int, folder: RunFolder) -> None:
    """Send an alert, unless the run has: after a kill the same steps find the same again, and W&B writes mails."""
    path = folder.wandb / "alerts.jsonl"
    this = {"event": alert.event, "kind": alert.kind, "where": alert.where, "step": step}
    if this in read_json_lines(path):
        return
    run.alert(f"{alert.event}: {alert.kind}", alert.message, level="WARN" if alert.is_new else "INFO")
    JsonLines(path).append(this)


class WeightsAndBiases(Callback):
    """Sends every logged step to W&B, from the main rank."""

    def __init__(self, config: RunConfig) -> None:
        self._config = config
        self._jobs: queue.Queue[Callable[[Any], Any] | None] = queue.Queue(MOST_WAITING)
        self._thread: threading.Thread | None = None
        self._panels = panels_of(config)

    def on_start(self, trainer: "Trainer") -> None:
        mode = self._config.wandb.mode
        if trainer.ranks.is_main and mode is not WandbMode.disabled:
            self._thread = threading.Thread(target=self._work, args=(trainer.folder, mode), daemon=True, name="W&B")
            self._thread.start()
        if trainer.step == 0:
            self._log_probes(trainer)

    def on_metrics(self, trainer: "Trainer", metrics: dict[str, Any]) -> None:
        self._submit(lambda run: run.log(self._panels.of(metrics), step=metrics["step"]))

    def on_alert(self, trainer: "Trainer", alert: Alert) -> None:
        step, folder = trainer.step, trainer.folder
        self._submit(lambda run: send_once(run, alert, step, folder))

    def on_step_end(self, trainer: "Trainer") -> None:
        if trainer.step % self._config.position_watch.probe_interval == 0 or trainer.step == self._config.max_steps:
            self._log_probes(trainer)  # the steps of PositionProbes

    def on_stop(self, trainer: "Trainer", reason: str) -> None:
        thread = self._thread  # which forgets itself when it gives up
        self._submit(None)
        if thread is not None:
            thread.join(LAST_SECONDS)
            if thread.is_alive():
                self._give_up(f"no answer in {LAST_SECONDS:g} s")

    def _log_probes(self, trainer: "Trainer") -> None:
        step, path = trainer.step, trainer.folder.probe(trainer.step)
        if self._thread is not None and path.exists():
            self._submit(lambda run: run.log(probe_pictures(step, path), step=step))

    def _submit(self, job: Callable[[Any], Any] | None) -> None:
        """Have the thread do this with the run, after what came before; None ends it. Never waits."""
        if self._thread is None:
            return
        try:
            self._jobs.put_nowait(job)
        except queue.Full:
            self._give_up(f"it is {MOST_WAITING} rows behind")

    def _work(self, folder: RunFolder, mode: WandbMode) -> None:
        try:
            run = open_run(self._config, folder, run_id(folder), mode)
            while (job := self._jobs.get()) is not None:
                job(run)
            run.finish()
        except Exception as error:  # whatever is wrong with W&B, training goes on
            self._give_up(str(error) or repr(error))

    def _give_up(self, why: str) -> None:
        if self._thread is None:  # that has been said
            return
        self._thread = None
        logger.warning(
            "W&B is not available (%s): going on without it; metrics.jsonl has everything, and "
            "`python -m train.callbacks.weights_and_biases %s/%s` logs it anew",
            why.strip().splitlines()[0],
            self._config.run_root,
            self._config.name,
        )


def main() -> None:
    """Rebuild a W&B run from a run folder."""
    from train.compose import EXIT_USER_ERROR, USER_ERRORS, load_run_config

    parser = argparse.ArgumentParser(
        prog="python -m train.callbacks.weights_and_biases",
        description="Log a run anew to W&B, from its metrics.jsonl, as a W&B run of its own.",
    )
    parser.add_argument("run", type=Path, help="a run folder, such as runs/demo")
    parser.add_argument("--mode", choices=["offline", "online"], default="offline")
    arguments = parser.parse_args()
    folder = RunFolder(arguments.run)
    try:
        config = load_run_config(folder.config)
    except USER_ERRORS as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(EXIT_USER_ERROR)
    run = open_run(config, folder, uuid.uuid4().hex[:8], WandbMode[arguments.mode])
    rows = folder.read_metrics()
    panels, probed = panels_of(config), probe_files(folder.probes)
    for step, row in sorted({**dict.fromkeys(probed), **{row[STEP]: row for row in rows}}.items()):
        if row is not None:
            run.log(panels.of(row), step=step)
        if step in probed:
            run.log(probe_pictures(step, probed[step]), step=step)
    run.finish()
    print(f"logged {len(rows)} steps of {arguments.run} as W&B run {run.id}")


if __name__ == "__main__":
    main()
