"""Saves a checkpoint every `checkpoint.interval` steps, and exports the final weights, earlier ones on request.

The trainer saves at a stop and after the last step. A save that fails here is reported, and the next interval saves
again (train/checkpoint/checkpoints.py).
"""

from collections.abc import Callable, Iterable
from pathlib import Path

from torch import Tensor

from train.callbacks.callback import Callback, TrainerInterface
from train.checkpoint.config import CheckpointConfig
from train.checkpoint.store import folder_name
from train.errors import SaveError

Export = Callable[[Path, Iterable[tuple[str, Tensor]], int], None]
"""Writes (folder, named parameters of the whole model, step) as `train.huggingface.export.export_parameters` does."""


class Checkpointer(Callback):
    """Checkpoints while the run lasts; after its last step, the weights in runs/NAME/hf."""

    def __init__(self, config: CheckpointConfig, export: Export | None) -> None:
        """Takes no `export` for a model that cannot be exported."""
        self._config = config
        self._export = export

    def on_step_end(self, trainer: TrainerInterface) -> None:
        if trainer.step == trainer.max_steps:
            return
        trainer.checkpoints.finish(wait=False)
        if trainer.step % self._config.interval == 0 and trainer.step != trainer.until:
            trainer.save()
        every = self._config.export_every
        if every is not None and trainer.step % every == 0 and self._export is not None:
            self._export_now(trainer, self._export, trainer.folder.exports / folder_name(trainer.step))

    def on_finish(self, trainer: TrainerInterface) -> None:
        if not self._config.export_hf or self._export is None:
            return
        folder = trainer.folder.hf
        if (problem := self._export_now(trainer, self._export, folder)) is not None:
            raise SaveError(
                f"the weights could not be exported to {folder} ({problem}); the last checkpoint is whole: "
                "free disk space and run the same command again"
            )

    def _export_now(self, trainer: TrainerInterface, export: Export, folder: Path) -> str | None:
        """Exports the present weights on the main rank; returns on all ranks what went wrong, or None. Collective."""
        parameters, problem = trainer.engine.full_parameters(), None
        if trainer.ranks.is_main:
            try:
                export(folder, parameters, trainer.step)
            except OSError as error:
                problem = str(error)
                print(f"step {trainer.step} could not be exported to {folder}: {problem}", flush=True)
        for _ in parameters:  # gathering is collective: a rank that does not export still takes part
            pass
        [problem, *_] = trainer.ranks.gather(problem)
        return problem
