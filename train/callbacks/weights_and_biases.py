"""Weights & Biases: a view of the run folder that can be rebuilt from it.

report/panels.py says what a step looks like there.

The run id is in the run folder before `wandb.init`, and every row carries its step: a resumed run goes on as the same
W&B run, online and, once synced, offline, where each launch leaves a part of its own. Rows of steps that were done
again after a kill are the same to the bit, so it does not matter which of them W&B keeps. After a rollback they differ,
and W&B takes no second row of a step: each rollback begins a W&B run of its own, NAME-rollback-1 and so on, marked with
an alert.

A failure of W&B never ends a run, and a server that is down or slow never delays it: a separate thread does everything,
`wandb.init` included, in order. The end of the run waits for it for a limited time.

`python -m train.callbacks.weights_and_biases RUN_FOLDER` logs a whole run again, from its metrics.jsonl.
"""

import logging
import os
import queue
import sys
import threading
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from common.command_line import Parser
from common.errors import UserError
from common.files import write_text_whole
from common.json_lines import JsonLines, read_json_lines
from report.metrics import STEP, MetricTable
from report.panels import Panels, probe_pictures
from report.probes import probe_files
from train.callbacks.callback import Callback, TrainerInterface
from train.callbacks.config import WandbConfig, WandbMode
from train.checkpoint.rollback import read_rollbacks
from train.config import RunConfig
from train.errors import Stop
from train.run_folder import RunFolder
from train.temporary import import_into_own_folder, start_in_own_folder
from train.watch.alert import Alert

logger = logging.getLogger(__name__)

MAX_QUEUED_ROWS = 10_000  # rows that are kept for a slow server
CLOSE_TIMEOUT = 60.0  # seconds that the end of a run waits for W&B


def panels_of(config: RunConfig) -> Panels:
    """Returns what makes rows for W&B from the metrics of this run."""
    return Panels(
        MetricTable.of(config.as_plain()),
        picture_interval=config.wandb.picture_interval,
        sequence_length=config.sequence_length,
        num_frequencies=config.model.head_dim // 2,
    )


def run_id(folder: RunFolder) -> str:
    """Returns the W&B id of a run, before any rollback: made once, kept in its folder.

    It is the id that `wandb agent` gives if one starts the run: only so the run belongs to the agent's sweep.
    """
    path = folder.wandb / "run_id"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        of_agent = os.environ.get("WANDB_RUN_ID") if os.environ.get("WANDB_SWEEP_ID") else None
        write_text_whole(path, of_agent or uuid.uuid4().hex[:8], durable=False)
    return path.read_text().strip()


def open_run(
    settings: WandbConfig, shown: dict[str, Any], folder: RunFolder, identity: str, num_rollbacks: int = 0
) -> Any:
    """Opens a W&B run that continues `identity` if the server has it, or the one after so many rollbacks.

    `shown` is the configuration that W&B lists beside it, of which `name` is the run's name.
    """
    import wandb

    suffix = f"-rollback-{num_rollbacks}" if num_rollbacks else ""
    with start_in_own_folder():  # a process of W&B, whose sockets outlive a kill
        return wandb.init(
            id=identity + suffix,
            resume="allow",
            mode=settings.mode.value,
            dir=str(folder.path),
            name=shown["name"] + suffix,
            project=settings.project,
            entity=settings.entity,
            group=settings.group,
            tags=list(settings.tags),
            config=shown,
            settings=wandb.Settings(silent=True, console="off"),
        )


def send_once(run: Any, alert: Alert, step: int, folder: RunFolder, num_rollbacks: int) -> None:
    """Sends an alert once: after a kill the same steps raise it again, and W&B sends mails."""
    path = folder.wandb / "alerts.jsonl"
    this = {"event": alert.event, "kind": alert.kind, "where": alert.where, "step": step}
    if num_rollbacks:
        this["rollbacks"] = num_rollbacks
    if this in read_json_lines(path):
        return
    run.alert(f"{alert.event}: {alert.kind}", alert.message, level="WARN" if alert.is_new else "INFO")
    JsonLines(path).append(this)


class WeightsAndBiases(Callback):
    """Sends every logged step to W&B."""

    main_rank_only = True

    def __init__(self, settings: WandbConfig, panels: Panels, shown: dict[str, Any]) -> None:
        """Takes its settings, what makes rows, and the configuration that W&B shows, with `name` and `run_root`."""
        self._settings = settings
        self._panels = panels
        self._shown = shown
        self._jobs: queue.Queue[Callable[[Any], Any] | None] = queue.Queue(MAX_QUEUED_ROWS)
        self._thread: threading.Thread | None = None
        self._has_given_up = False
        self._num_rollbacks = 0

    def on_start(self, trainer: TrainerInterface) -> None:
        rollbacks = read_rollbacks(trainer.folder.checkpoints)
        self._num_rollbacks = len(rollbacks)
        with import_into_own_folder():  # here, as for the while of the import all temporary files lie there
            import wandb  # noqa: F401
        self._thread = threading.Thread(target=self._work, args=(trainer.folder,), daemon=True, name="W&B")
        self._thread.start()
        if rollbacks:
            last = rollbacks[-1]
            self._send_once(trainer, Alert("rollback", last.kind, last.where, last.since, last.summary), last.step)

    def on_metrics(self, trainer: TrainerInterface, metrics: dict[str, Any]) -> None:
        self._submit(lambda run: run.log(self._panels.of(metrics), step=metrics["step"]))

    def on_alert(self, trainer: TrainerInterface, alert: Alert) -> None:
        self._send_once(trainer, alert, trainer.step)

    def on_probe(self, trainer: TrainerInterface, path: Path) -> None:
        step = trainer.step
        self._submit(lambda run: run.log(probe_pictures(step, path), step=step))

    def on_stop(self, trainer: TrainerInterface, stop: Stop) -> None:
        self._submit(None)
        if self._thread is not None and not self._has_given_up:
            self._thread.join(CLOSE_TIMEOUT)
            if self._thread.is_alive():
                self._give_up(f"no answer in {CLOSE_TIMEOUT:g} s")

    def _send_once(self, trainer: TrainerInterface, alert: Alert, step: int) -> None:
        folder, num_rollbacks = trainer.folder, self._num_rollbacks
        self._submit(lambda run: send_once(run, alert, step, folder, num_rollbacks))

    def _submit(self, job: Callable[[Any], Any] | None) -> None:
        """Queues a job for the thread, also before the thread starts; None ends it. Never waits."""
        if self._has_given_up:
            return
        try:
            self._jobs.put_nowait(job)
        except queue.Full:
            self._give_up(f"it is {MAX_QUEUED_ROWS} rows behind")

    def _work(self, folder: RunFolder) -> None:
        try:
            run = open_run(self._settings, self._shown, folder, run_id(folder), self._num_rollbacks)
            while (job := self._jobs.get()) is not None:
                job(run)
            run.finish()
        except Exception as error:  # whatever is wrong with W&B, training goes on
            self._give_up(str(error) or repr(error))

    def _give_up(self, why: str) -> None:
        if self._has_given_up:
            return
        self._has_given_up = True
        logger.warning(
            "W&B is not available (%s): going on without it; metrics.jsonl has everything, and "
            "`python -m train.callbacks.weights_and_biases %s/%s` logs it again",
            why.strip().splitlines()[0],
            self._shown["run_root"],
            self._shown["name"],
        )


def for_run(config: RunConfig) -> WeightsAndBiases:
    """Returns the callback of a run."""
    return WeightsAndBiases(config.wandb, panels_of(config), config.as_plain())


def main() -> None:
    """Rebuilds a W&B run from a run folder."""
    from train.compose.app import load_run_config
    from train.errors import EXIT_USER_ERROR

    parser = Parser(
        prog="python -m train.callbacks.weights_and_biases",
        description="Log a run again to W&B, from its metrics.jsonl, as a W&B run of its own.",
    )
    parser.add_argument("run", type=Path, help="a run folder, such as runs/demo")
    parser.add_argument("--mode", choices=["offline", "online"], default="offline")
    arguments = parser.parse_args()
    folder = RunFolder(arguments.run)
    try:
        config = load_run_config(folder.config)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(EXIT_USER_ERROR)
    settings = replace(config.wandb, mode=WandbMode[arguments.mode])
    run = open_run(settings, config.as_plain(), folder, uuid.uuid4().hex[:8])
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
