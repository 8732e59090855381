"""A run or one of its checkpoints as a Hugging Face folder: `python -m model export`. Needs no GPU and no ranks."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from model.export import save_hf
from model.huggingface.flavours import Flavour, check_flavour, default_flavour
from model.weights import parameter_shapes
from report.run_folder import RunFiles
from train.checkpoint.manifest import MANIFEST, DamageError
from train.checkpoint.masters import read_masters
from train.checkpoint.store import Checkpoint, checkpoint_folders, folder_name, newest_checkpoint, read_checkpoint
from train.compose.app import run_config_of
from train.config import RunConfig
from train.errors import TrainError
from train.huggingface.companions import companion_files, longest_context

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Saved:
    """A checkpoint with the config that it was saved with."""

    checkpoint: Checkpoint
    config: RunConfig


def is_run_or_checkpoint(path: Path) -> bool:
    """Returns whether a path is the folder of a run or of a checkpoint."""
    return (path / MANIFEST).is_file() or RunFiles(path).checkpoints.is_dir()


def open_saved(path: Path, step: int | None = None) -> Saved:
    """Returns the checkpoint at `path`, or of the run there: the newest whole one, or that of `step`.

    Raises TrainError if there is none, or if it is damaged.
    """
    checkpoint = _find(path, step)
    config = run_config_of(checkpoint.trainer_state()["config"], str(checkpoint.folder))
    run = checkpoint.folder.parent.parent  # where it lies now, whatever it was called when it was saved
    if (run / checkpoint.folder.parent.name) == RunFiles(run).checkpoints:
        config.run_root, config.name = str(run.parent), run.resolve().name
    return Saved(checkpoint, config)


def export(
    saved: Saved,
    folder: Path,
    *,
    flavour: Flavour | None = None,
    dtype: torch.dtype = torch.float32,
    tokenizer: Path | None = None,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> str | None:
    """Writes a checkpoint's weights, code, tokenizer and card; returns why there is no tokenizer, or None.

    Memory holds one file of weights at a time (5 GB). Raises ModelError and TrainError before anything is written.
    """
    run = saved.config
    flavour = flavour or default_flavour(run.model, run.positions)
    check_flavour(flavour, run.model, run.positions)
    if folder.exists():
        raise TrainError(f"{folder} exists; remove it or choose another folder to export to")
    files, no_tokenizer = companion_files(run, saved.checkpoint.step, flavour, tokenizer)
    masters = read_masters(saved.checkpoint)
    wanted = parameter_shapes(run.model, run.positions)
    if masters.keys() != wanted.keys():
        different = sorted(masters.keys() ^ wanted.keys())
        raise TrainError(f"{saved.checkpoint.folder} has other parameters than its config: {different[0]} and others")
    save_hf(
        folder,
        run.model,
        run.positions,
        ((name, masters[name]()) for name in wanted),
        max_position_embeddings=longest_context(run),
        flavour=flavour,
        dtype=dtype,
        other_files=files,
        report=report,
    )
    return no_tokenizer


def _find(path: Path, step: int | None) -> Checkpoint:
    try:
        if (path / MANIFEST).is_file():
            return read_checkpoint(path)
        root = RunFiles(path).checkpoints
        if step is not None:
            if (root / folder_name(step)).is_dir():
                return read_checkpoint(root / folder_name(step))
            steps = ", ".join(folder.name for folder in checkpoint_folders(root)) or "none"
            raise TrainError(f"{path} has no checkpoint of step {step}; there are: {steps}")
    except DamageError as error:
        raise TrainError(f"{path} is damaged ({error}): take another checkpoint") from error
    newest = newest_checkpoint(root)
    if newest is None:
        raise TrainError(
            f"{path} is no run with a whole checkpoint, and no checkpoint: give runs/NAME or one of its checkpoints"
        )
    return newest
