"""Saves every `checkpoint.interval` steps, and exports the final weights. The trainer saves at a stop and at the end.

A full disk in the middle of a run is no reason to lose the hours until its end: training goes on, and saves at the next
interval. Only the last checkpoint has to be written.
"""

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError
from torch import Tensor

from model.export import save_hf
from report.run_folder import FINISHED
from train.callbacks.callback import Callback
from train.checkpoint.manifest import flush_to_disk
from train.config import RunConfig
from train.errors import SaveError
from train.run_folder import EXPORTED_STEP

if TYPE_CHECKING:
    from train.trainer import Trainer


class Checkpointer(Callback):
    """Checkpoints while the run lasts; at its end, runs/NAME/hf."""

    def __init__(self, config: RunConfig) -> None:
        self._config = config

    def on_step_end(self, trainer: "Trainer") -> None:
        if trainer.step == self._config.max_steps:
            return
        try:
            trainer.finish_save(wait=False)
            if trainer.step % self._config.checkpoint.interval == 0:
                trainer.save()
        except SaveError as error:
            trainer.go_on_without_saving(error)

    def on_stop(self, trainer: "Trainer", reason: str) -> None:
        if reason != FINISHED or not self._config.checkpoint.export_hf:
            return
        parameters, problem = trainer.engine.full_parameters(), None
        if trainer.ranks.is_main:
            try:
                self._export(trainer.folder.hf, parameters, trainer.step)
            except (OSError, SafetensorError) as error:
                problem = str(error)
        for _ in parameters:  # gathering is collective, keeping is not
            pass
        [problem, *_] = trainer.ranks.gather(problem)
        if problem is not None:
            raise SaveError(
                f"the weights could not be exported to {trainer.folder.hf} ({problem}); the last checkpoint is whole: "
                "make room and run the same command again"
            )

    def _export(self, folder: Path, parameters: Iterable[tuple[str, Tensor]], step: int) -> None:
        old = folder.with_name(".hf-old")  # of a shorter run that has since been extended
        for leftover in [old, *folder.parent.glob(".hf.partial-*")]:
            shutil.rmtree(leftover, ignore_errors=True)
        if folder.exists():
            folder.rename(old)
        config = self._config
        save_hf(folder, config.model, config.positions, parameters, max_position_embeddings=config.sequence_length)
        shutil.rmtree(old, ignore_errors=True)
        (folder / EXPORTED_STEP).write_text(f"{step}\n")
        flush_to_disk(folder / EXPORTED_STEP)
        flush_to_disk(folder)
