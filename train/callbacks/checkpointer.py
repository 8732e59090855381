"""Saves a checkpoint every `checkpoint.interval` steps, and exports the final weights, earlier ones on request.

The trainer saves at a stop and after the last step. A save that fails here is reported, and the next interval saves
again (train/checkpoint/checkpoints.py).
"""

import shutil
from collections.abc import Iterable
from functools import partial
from pathlib import Path

from torch import Tensor

from common.files import write_text_whole
from model.accounting import num_parameters
from model.export import save_hf
from train.callbacks.callback import Callback, TrainerInterface
from train.checkpoint.store import folder_name
from train.config import RunConfig
from train.errors import SaveError
from train.huggingface.companions import companion_files, longest_context
from train.run_folder import EXPORTED_STEP

LARGE = 250_000_000  # numbers in a model whose export takes long enough to say how far it is


class Checkpointer(Callback):
    """Checkpoints while the run lasts; after its last step, the weights in runs/NAME/hf."""

    def __init__(self, run: RunConfig) -> None:
        """Takes the whole config: the model card of an export describes it."""
        self._run = run
        self._config = run.checkpoint

    def on_step_end(self, trainer: TrainerInterface) -> None:
        if trainer.step == trainer.max_steps:
            return
        trainer.checkpoints.finish(wait=False)
        if trainer.step % self._config.interval == 0 and trainer.step != trainer.until:
            trainer.save()
        every = self._config.export_every
        if every is not None and trainer.step % every == 0 and self._run.export_problem() is None:
            self._export_now(trainer, trainer.folder.exports / folder_name(trainer.step))

    def on_finish(self, trainer: TrainerInterface) -> None:
        if not self._config.export_hf or self._run.export_problem() is not None:
            return
        folder = trainer.folder.hf
        if (problem := self._export_now(trainer, folder)) is not None:
            raise SaveError(
                f"the weights could not be exported to {folder} ({problem}); the last checkpoint is whole: "
                "free disk space and run the same command again"
            )

    def _export_now(self, trainer: TrainerInterface, folder: Path) -> str | None:
        """Exports the present weights on the main rank; returns on all ranks what went wrong, or None. Collective."""
        parameters, problem = trainer.engine.full_parameters(), None
        if trainer.ranks.is_main:
            try:
                self._export(folder, parameters, trainer.step)
            except OSError as error:
                problem = str(error)
                print(f"step {trainer.step} could not be exported to {folder}: {problem}", flush=True)
        for _ in parameters:  # gathering is collective: a rank that does not export still takes part
            pass
        [problem, *_] = trainer.ranks.gather(problem)
        return problem

    def _export(self, folder: Path, parameters: Iterable[tuple[str, Tensor]], step: int) -> None:
        old = folder.with_name(f".{folder.name}-old")  # of a shorter run that has since been extended, or repeated
        shutil.rmtree(old, ignore_errors=True)
        run = self._run
        files, no_tokenizer = companion_files(run, step)
        if no_tokenizer is not None:
            print(f"{folder} has no tokenizer: {no_tokenizer}", flush=True)
        if folder.exists():
            folder.rename(old)
        save_hf(
            folder,
            run.model,
            run.positions,
            parameters,
            max_position_embeddings=longest_context(run),
            other_files=files,
            report=partial(_say_quarters, folder, num_parameters(run.model, run.positions)),
        )
        shutil.rmtree(old, ignore_errors=True)
        write_text_whole(folder / EXPORTED_STEP, f"{step}\n", durable=True)


def _say_quarters(folder: Path, num_numbers: int, done: int, total: int) -> None:
    """Prints a line after each quarter of the parameters of a large model but the last."""
    if num_numbers >= LARGE and done < total and done * 4 // total != (done - 1) * 4 // total:
        print(f"{folder}: {done}/{total} parameters written", flush=True)
