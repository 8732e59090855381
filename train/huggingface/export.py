"""A run or one of its checkpoints as a Hugging Face folder: `python -m model export`. Needs no GPU and no ranks."""

from collections.abc import Callable
from pathlib import Path

import torch

from model.export import save_hf
from model.huggingface.flavours import Flavour, check_flavour, default_flavour
from model.weights import hf_keys
from train.huggingface.companions import companion_files, longest_context
from train.huggingface.source import Saved, check_target, open_checkpoint

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


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
