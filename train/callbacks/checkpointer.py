"""Saves a checkpoint every `checkpoint.interval` steps, and exports the final weights.

The trainer saves at a stop and after the last step. A save that fails here is reported, and the next interval saves
again (train/checkpoint/checkpoints.py).
"""

import shutil
from collections.abc import Iterable
from pathlib import Path

from safetensors import SafetensorError
from torch import Tensor

from common.files import write_text_whole
from model.export import save_hf
from train.callbacks.callback import Callback, TrainerInterface
from train.config import RunConfig
from train.errors import SaveError
from train.run_folder import EXPORTED_STEP


class Checkpointer(Callback):
    """Checkpoints while the run lasts; after its last step, the weights in runs/NAME/hf."""

    def __init__(self, run: RunConfig) -> None:
        self._run = run
        self._config = run.checkpoint

    def on_step_end(self, trainer: TrainerInterface) -> None:
        if trainer.step == trainer.max_steps:
            return
        trainer.checkpoints.finish(wait=False)
        if trainer.step % self._config.interval == 0:
            trainer.save()

    def on_finish(self, trainer: TrainerInterface) -> None:
        if not self._config.export_hf or self._run.export_problem() is not None:
            return
        parameters, problem = trainer.engine.full_parameters(), None
        if trainer.ranks.is_main:
            try:
                self._export(trainer.folder.hf, parameters, trainer.step)
            except (OSError, SafetensorError) as error:
                problem = str(error)
        for _ in parameters:  # gathering is collective: a rank that does not export still takes part
            pass
        [problem, *_] = trainer.ranks.gather(problem)
        if problem is not None:
            raise SaveError(
                f"the weights could not be exported to {trainer.folder.hf} ({problem}); the last checkpoint is whole: "
                "free disk space and run the same command again"
            )

    def _export(self, folder: Path, parameters: Iterable[tuple[str, Tensor]], step: int) -> None:
        old = folder.with_name(".hf-old")  # of a shorter run that has since been extended
        for leftover in [old, *folder.parent.glob(".hf.partial-*")]:
            shutil.rmtree(leftover, ignore_errors=True)
        if folder.exists():
            folder.rename(old)
        run = self._run
        save_hf(folder, run.model, run.positions, parameters, max_position_embeddings=run.sequence_length)
        shutil.rmtree(old, ignore_errors=True)
        write_text_whole(folder / EXPORTED_STEP, f"{step}\n", durable=True)
