"""The universal form of a checkpoint: whole tensors by parameter name, for any ranks, ZeRO stage and precision.

    step-0000100/universal/zero/NAME/{fp32,exp_avg,exp_avg_sq}.pt    DeepSpeed's layout, made by its own converter
    step-0000100/universal/manifest.json                             ours; written last

The main rank makes it once, when a run first continues in another layout; later starts find it there, and it is deleted
with its checkpoint. A kill in the middle leaves a partial folder; the next start converts again.

DeepSpeed 0.19.8 can load this form only into the ZeRO family (1 and 2, or 3) that wrote it; into ZeRO 3 it gives every
parameter group the weight decay of the first one, and all groups one step counter, which then counts once per group. So
the form is DeepSpeed's and the loading is ours: weights as initial weights, moments by `Engine.load_optimizer`. ZeRO 0,
which the converter does not support, is written here in the same form.
"""

import argparse
import contextlib
import io
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from common.files import flush_to_disk
from train.checkpoint.loading import only_known_types
from train.checkpoint.manifest import (
    DamageError,
    FileRecord,
    VersionError,
    digest_file,
    find_damage,
    read_manifest,
    without_crc32,
    write_manifest,
)
from train.checkpoint.store import PARTIAL, Checkpoint, Layout, clear_leftovers, remove
from train.engine.engine import MOMENTS
from train.errors import TrainError
from train.optimizer import parameter_groups
from train.optimizer_config import OptimizerConfig

FOLDER = "universal"


@dataclass(frozen=True)
class Universal:
    """A converted checkpoint, read one tensor at a time."""

    folder: Path
    num_updates: int  # that AdamW has made

    def weight(self, name: str) -> Tensor:
        """Returns the fp32 master of a parameter, in its shape or flat."""
        return self._read(name, "fp32")

    def moment(self, name: str, key: str) -> Tensor:
        """Returns AdamW's `exp_avg` or `exp_avg_sq` of a parameter, fp32, in its shape or flat."""
        return self._read(name, key)

    def _read(self, name: str, key: str) -> Tensor:
        saved = torch.load(self.folder / "zero" / name / f"{key}.pt", mmap=True)
        tensor: Tensor = saved["param"] if isinstance(saved, dict) else saved  # flat where ZeRO 3 wrote it
        return tensor


def open_universal(checkpoint: Checkpoint) -> Universal:
    """Opens the universal form that `make_universal` wrote."""
    fields, _ = read_manifest(checkpoint.folder / FOLDER)
    return Universal(checkpoint.folder / FOLDER, fields["num_updates"])


def is_universal(checkpoint: Checkpoint) -> bool:
    """Returns whether the universal form is there and whole; a damaged one is deleted, as it can be made again."""
    folder = checkpoint.folder / FOLDER
    if not folder.is_dir():
        return False
    try:
        _, files = read_manifest(folder)
        damage = find_damage(folder, files.items())
    except (DamageError, VersionError) as error:
        damage = str(error)
    if damage is not None:
        remove(folder)
    return damage is None


def make_universal(checkpoint: Checkpoint) -> None:
    """Converts a checkpoint, on one rank; writes 12 bytes per parameter twice.

    Raises TrainError if that does not fit on the disk, or if there was no update yet.
    """
    clear_leftovers(checkpoint.folder)
    aside = checkpoint.folder / f"{PARTIAL}{FOLDER}"
    output = aside / FOLDER  # DeepSpeed also writes a file beside its output
    output.mkdir(parents=True)
    try:
        convert = CONVERTERS[checkpoint.layout.zero_stage]
        with without_crc32(), only_known_types(checkpoint.folder):
            num_updates = convert(checkpoint.folder, output, checkpoint.layout)
        files = {str(path.relative_to(output)): _record(path) for path in sorted(output.rglob("*.pt"))}
        for folder in {path.parent for path in output.rglob("*.pt")}:
            flush_to_disk(folder)
        write_manifest(output, {"num_updates": num_updates}, files)
        output.rename(checkpoint.folder / FOLDER)
        flush_to_disk(checkpoint.folder)
    except (OSError, RuntimeError) as error:  # torch makes a RuntimeError of a write that fails
        reason = str(error).splitlines()[0]
        raise TrainError(
            f"{checkpoint.folder} could not be converted for other ranks, ZeRO stage or precision ({reason}): "
            "free disk space for 24 bytes per parameter, or continue with those that it was saved with"
        ) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _convert_zero(optimizer_key: str, folder: Path, output: Path, layout: Layout) -> int:
    """Converts ZeRO 1, 2 or 3 by DeepSpeed's converter, and returns the number of updates made.

    `optimizer_key` is where a rank's file holds the state of torch's AdamW. It runs in this process: worker
    processes would survive a kill, and keep writing.
    """
    from deepspeed.checkpoint.ds_to_universal import main

    shard = torch.load(next(folder.glob("*_optim_states.pt")), map_location="cpu", mmap=True)
    states = shard["optimizer_state_dict"][optimizer_key]["state"]
    _check_updated(folder, states)
    options = argparse.Namespace(
        input_folder=str(folder),
        output_folder=str(output),
        num_extract_workers=1,
        num_merge_workers=1,
        keep_temp_folder=False,
        strict=True,
        inject_missing_state=True,
    )
    quiet = io.StringIO()
    with contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet):  # progress bars and headings
        main(options)
    for path in (*output.glob("*_states.pt"), output / "zero" / "optimizer_state.pt"):
        path.unlink()  # copies of the working weights, and under ZeRO 3 of a whole shard, which nothing needs
    return int(next(iter(states.values()))["step"])


def _convert_plain(folder: Path, output: Path, layout: Layout) -> int:
    """Converts ZeRO 0: torch's own state of whole tensors, which numbers the parameters group by group."""
    [path] = folder.glob("mp_rank_*_model_states.pt")
    saved = torch.load(path, map_location="cpu", mmap=True)
    config = OptimizerConfig(decay_embeddings=layout.decay_embeddings, decay_norms=layout.decay_norms)
    groups = parameter_groups(((name, name) for name in saved["module"]), config)
    states = saved["optimizer"]["state"]
    _check_updated(folder, states)
    for number, name in enumerate(name for group in groups for name in group["params"]):
        tensors = {"fp32": saved["module"][name], **{key: states[number][key] for key in MOMENTS}}
        (output / "zero" / name).mkdir(parents=True)
        for key, tensor in tensors.items():
            torch.save({"param": tensor.clone()}, output / "zero" / name / f"{key}.pt")
    return int(states[0]["step"])


CONVERTERS: dict[int, Callable[[Path, Path, Layout], int]] = {
    0: _convert_plain,
    1: partial(_convert_zero, "base_optimizer_state"),
    2: partial(_convert_zero, "base_optimizer_state"),
    3: partial(_convert_zero, "optimizer_state_dict"),
}  # by ZeRO stage


def _check_updated(folder: Path, optimizer_states: Any) -> None:
    if not optimizer_states:
        raise TrainError(
            f"{folder} holds no update, as all so far were skipped: delete it, or go on with the number of ranks, ZeRO "
            "stage and precision that it was saved with"
        )


def _record(path: Path) -> FileRecord:
    flush_to_disk(path)
    return FileRecord(path.stat().st_size, digest_file(path), rank=0)
