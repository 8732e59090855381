"""Weights & Biases: a view of metrics.jsonl that can be rebuilt from it.

The run id is in the run folder before `wandb.init`, and every row carries its step: a resumed run goes on as the same
W&B run, online and, once synced, offline, where each launch leaves a part of its own. Rows of steps that were done
again after a kill are the same to the bit, so it does not matter which of them W&B keeps. Trouble with W&B never ends a
run.

`python -m train.callbacks.weights_and_biases RUN_FOLDER` logs a whole run anew, from its metrics.jsonl.
"""

import argparse
import logging
import sys
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

from train.callbacks.callback import Callback
from train.config import RunConfig, WandbMode
from train.run_folder import RunFolder, read_json_lines
from train.watch.alert import Alert

if TYPE_CHECKING:
    from train.trainer import Trainer

logger = logging.getLogger(__name__)


def run_id(folder: RunFolder) -> str:
    """The W&B id of a run: made once, kept in its folder."""
    path = folder.wandb / "run_id"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        part.write_text(uuid.uuid4().hex[:8])
        part.replace(path)
    return path.read_text().strip()


def scalars(metrics: dict[str, Any]) -> dict[str, float]:
    """Metrics with each list spread out: `positions/layer_05/std` becomes `.../std/head_00`, `.../std/head_01`, ..."""
    flat: dict[str, float] = {}
    for name, value in metrics.items():
        if isinstance(value, list):
            flat.update({f"{name}/head_{head:02d}": entry for head, entry in enumerate(value)})
        elif name != "step" and value is not None:
            flat[name] = value
    return flat


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


class WeightsAndBiases(Callback):
    """Sends every logged step to W&B, from the main rank."""

    def __init__(self, config: RunConfig) -> None:
        self._config = config
        self._run: Any = None

    def on_start(self, trainer: "Trainer") -> None:
        mode = self._config.wandb.mode
        if not trainer.ranks.is_main or mode is WandbMode.disabled:
            return
        try:
            self._run = open_run(self._config, trainer.folder, run_id(trainer.folder), mode)
        except Exception as error:  # whatever is wrong with W&B, training goes on
            logger.warning("W&B is not available (%s): going on without it; metrics.jsonl has everything", error)

    def on_metrics(self, trainer: "Trainer", metrics: dict[str, Any]) -> None:
        if self._run is None:
            return
        try:
            self._run.log(scalars(metrics), step=metrics["step"])
        except Exception as error:
            logger.warning("W&B failed (%s): going on without it; metrics.jsonl has everything", error)
            self._run = None

    def on_alert(self, trainer: "Trainer", alert: Alert) -> None:
        if self._run is None:
            return
        try:
            self._run.alert(f"{alert.event}: {alert.kind}", alert.message, level="WARN" if alert.is_new else "INFO")
        except Exception as error:
            logger.warning("W&B failed (%s): going on without its alerts; events.jsonl has them", error)

    def on_stop(self, trainer: "Trainer", reason: str) -> None:
        if self._run is not None:
            try:
                self._run.finish()
            except Exception as error:
                logger.warning("W&B failed (%s); metrics.jsonl has everything", error)


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
    rows = read_json_lines(folder.metrics)
    for row in rows:
        run.log(scalars(row), step=row["step"])
    run.finish()
    print(f"logged {len(rows)} steps of {arguments.run} as W&B run {run.id}")


if __name__ == "__main__":
    main()
