"""A run as a Hugging Face folder: one of its checkpoints (`python -m model export`), or what it is training.

Neither needs a GPU, and the first needs no ranks.
"""

import shutil
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from common.files import write_text_whole
from model.accounting import num_parameters
from model.export import save_hf
from model.huggingface.flavours import Flavour, check_flavour, default_flavour
from model.weights import hf_keys
from train.config import RunConfig
from train.huggingface.companions import companion_files, longest_context
from train.huggingface.source import Saved, check_target, open_checkpoint
from train.run_folder import EXPORTED_STEP

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
LARGE = 250_000_000  # numbers in a model whose export takes long enough to say how far it is


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
    check_target(folder)
    files, no_tokenizer = companion_files(run, saved.checkpoint.step, flavour, tokenizer)
    source, keys = open_checkpoint(saved), hf_keys(run.model, run.positions)
    save_hf(
        folder,
        run.model,
        run.positions,
        ((name, source.read(key)) for name, key in keys.items()),
        max_position_embeddings=longest_context(run),
        flavour=flavour,
        dtype=dtype,
        other_files=files,
        report=report,
    )
    return no_tokenizer


def export_parameters(run: RunConfig, folder: Path, parameters: Iterable[tuple[str, Tensor]], step: int) -> None:
    """Writes the weights of a run that is training, in its default flavour, float32; replaces the folder.

    `parameters` are those of the whole model by name, in its own order; they are read once. Raises OSError.
    """
    old = folder.with_name(f".{folder.name}-old")  # of a shorter run that has since been extended, or repeated
    shutil.rmtree(old, ignore_errors=True)
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
