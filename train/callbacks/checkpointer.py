"""Saves every `checkpoint.interval` steps, and exports the final weights. A stop saves in the trainer."""

import shutil
from typing import TYPE_CHECKING

from model.export import save_hf
from train.callbacks.callback import Callback
from train.config import RunConfig
from train.run_folder import FINISHED

if TYPE_CHECKING:
    from train.trainer import Trainer


class Checkpointer(Callback):
    """Checkpoints while the run lasts; at its end, runs/NAME/hf."""

    def __init__(self, config: RunConfig) -> None:
        self._config = config

    def on_step_end(self, trainer: "Trainer") -> None:
        if trainer.step % self._config.checkpoint.interval == 0:
            trainer.save()

    def on_stop(self, trainer: "Trainer", reason: str) -> None:
        if reason != FINISHED or not self._config.checkpoint.export_hf:
            return
        parameters = trainer.engine.full_parameters()
        if not trainer.ranks.is_main:
            for _ in parameters:  # gathering is collective, keeping is not
                pass
            return
        folder = trainer.folder.hf
        fresh = folder.with_name(".hf-fresh")
        shutil.rmtree(fresh, ignore_errors=True)
        save_hf(
            fresh,
            self._config.model,
            self._config.positions,
            parameters,
            max_position_embeddings=self._config.sequence_length,
        )
        shutil.rmtree(folder, ignore_errors=True)  # that of a shorter run which has since been extended
        fresh.rename(folder)
