"""Checkpoints that are whole or absent, and the one decision of what a run starts from.

    checkpoints/step-0000100/   DeepSpeed's files, rng-rank-NNNNN.pt, trainer.json, manifest.json (sizes; written last)
    checkpoints/latest          the name of the newest one

DeepSpeed writes in place and names `latest` before all ranks are done. Here everything is written to a folder aside,
flushed to disk, listed in the manifest, and published by one rename; `latest` is replaced after that.
"""

import json
import os
import random
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from train.config import Precision, RunConfig
from train.distributed import Ranks
from train.engine import Engine
from train.errors import TrainError
from train.run_folder import RunFolder

PREFIX = "step-"
ASIDE = ".part-"
MANIFEST = "manifest.json"
TRAINER = "trainer.json"

# What may not change over a resume, and what of it may all the same: it changes speed, not results.
FIXED = ("model.", "positions.", "sequence_length", "global_batch_size", "mask_documents", "optimizer.decay_")
FREE = ("model.attention", "model.activation_checkpointing", "model.loss_chunk_rows")


@dataclass(frozen=True)
class Checkpoint:
    """A whole checkpoint on disk."""

    folder: Path
    step: int
    world_size: int
    zero_stage: int
    precision: str

    def trainer_state(self) -> dict[str, Any]:
        """What the trainer, the data stream and the callbacks saved."""
        state: dict[str, Any] = json.loads((self.folder / TRAINER).read_text())
        return state


@dataclass(frozen=True)
class Start:
    """What a run starts from: exactly one of the fields, or neither for random weights."""

    resume: Checkpoint | None = None
    import_from: Path | None = None


def choose_start(own: Checkpoint | None, init_from: str | None) -> Start:
    """Resume outranks init: own checkpoint, then `init_from`, then random weights.

    So the same command, run again, continues. `init_from` is a Hugging Face folder, or the folder of a run of ours,
    whose final weights are then meant. Raises TrainError if it is neither.
    """
    if own is not None:
        return Start(resume=own)
    if init_from is None:
        return Start()
    folder = Path(init_from).expanduser()
    if not folder.is_dir():
        raise TrainError(
            f"init_from={init_from} is absent: download the checkpoint there, or set init_from to its folder"
        )
    if (folder / "config.json").is_file():
        return Start(import_from=folder)
    if RunFolder(folder).config.is_file():
        run = RunFolder(folder)
        newest = newest_checkpoint(run.checkpoints)
        if run.exported_step() is None or (newest is not None and newest.step != run.exported_step()):
            raise TrainError(
                f"init_from={init_from} has not finished, or ran with checkpoint.export_hf=false: {run.hf} lacks its "
                "last weights; run it to its end with the export on"
            )
        return Start(import_from=run.hf)
    raise TrainError(f"init_from={init_from} holds neither a config.json (Hugging Face) nor a finished run of ours")


def check_resumable(checkpoint: Checkpoint, config: RunConfig, world_size: int, precision: Precision) -> None:
    """Raise TrainError, naming both values, if this launch cannot go on from `checkpoint`.

    That is so for another model, other batches, or another world size, ZeRO stage or (resolved) precision.
    """
    for key, was, now in (
        ("launch.processes", checkpoint.world_size, world_size),
        ("engine.zero_stage", checkpoint.zero_stage, config.engine.zero_stage),
        ("engine.precision", checkpoint.precision, precision.value),
    ):
        if was != now:
            raise TrainError(
                f"{checkpoint.folder} was written with {key}={was}, but this launch has {now}: resume with {key}={was}"
            )
    changed = [
        f"{key} was {was} and is {now}"
        for key, (was, now) in changed_keys(checkpoint, config).items()
        if key.startswith(FIXED) and not key.startswith(FREE)
    ]
    if changed:
        raise TrainError(
            f"{checkpoint.folder} belongs to another run: {'; '.join(changed)}. Restore this to continue, or give the "
            "new run a name of its own"
        )


def changed_keys(checkpoint: Checkpoint, config: RunConfig) -> dict[str, tuple[Any, Any]]:
    """Key -> (value in the checkpoint, value now) of everything in which `config` differs."""
    saved, current = (_flat(plain) for plain in (checkpoint.trainer_state()["config"], config.as_plain()))
    keys = {**saved, **current}
    return {key: (saved.get(key), current.get(key)) for key in keys if saved.get(key) != current.get(key)}


def newest_checkpoint(root: Path) -> Checkpoint | None:
    """The whole checkpoint with the highest step below `root`; torn and foreign folders are passed over."""
    whole = [checkpoint for folder in root.glob(f"{PREFIX}*") if (checkpoint := read_checkpoint(folder))]
    return max(whole, key=lambda checkpoint: checkpoint.step, default=None)


def read_checkpoint(folder: Path) -> Checkpoint | None:
    """The checkpoint in `folder`, or None unless every file has the size that its manifest states."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        for name, size in manifest["files"].items():
            if (folder / name).stat().st_size != size:
                return None
        return Checkpoint(
            folder, manifest["step"], manifest["world_size"], manifest["zero_stage"], manifest["precision"]
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def save_checkpoint(root: Path, step: int, engine: Engine, ranks: Ranks, state: dict[str, Any], keep: int) -> Path:
    """Publish step `step` below `root` and drop all but the newest `keep`; all ranks call it. Returns its folder."""
    final, aside = root / f"{PREFIX}{step:07d}", root / f"{ASIDE}{step:07d}"
    if ranks.is_main:
        root.mkdir(parents=True, exist_ok=True)
        for leftover in root.glob(f"{ASIDE}*"):  # of a save that was killed
            shutil.rmtree(leftover, ignore_errors=True)
    ranks.barrier()
    engine.save(aside)
    torch.save(_rng_state(), _rng_file(aside, ranks.rank))
    ranks.barrier()
    if ranks.is_main:
        (aside / TRAINER).write_text(json.dumps(state))
        files = sorted(path for path in aside.iterdir() if path.is_file())
        manifest = {
            "step": step,
            "world_size": ranks.world_size,
            "zero_stage": engine.zero_stage,
            "precision": engine.precision.value,
            "files": {path.name: path.stat().st_size for path in files},
        }
        (aside / MANIFEST).write_text(json.dumps(manifest, indent=2))
        for path in [*files, aside / MANIFEST, aside]:
            _fsync(path)
        shutil.rmtree(final, ignore_errors=True)
        aside.rename(final)
        _fsync(root)
        _write_latest(root, final.name)
        _drop_old(root, keep)
    ranks.barrier()
    return final


def load_checkpoint(checkpoint: Checkpoint, engine: Engine, ranks: Ranks) -> dict[str, Any]:
    """Restore the engine and this rank's generators from a checkpoint that `check_resumable` has let pass.

    Returns the trainer's state. All ranks call it.
    """
    engine.load(checkpoint.folder)
    _set_rng_state(torch.load(_rng_file(checkpoint.folder, ranks.rank), weights_only=False))
    return checkpoint.trainer_state()


def _flat(plain: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in plain.items():
        flat.update(_flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value})
    return flat


def _rng_file(folder: Path, rank: int) -> Path:
    return folder / f"rng-rank-{rank:05d}.pt"


def _rng_state() -> dict[str, Any]:
    return {
        "python": random.getstate(),
        "numpy": np.random.get_state(),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
    }


def _set_rng_state(state: dict[str, Any]) -> None:
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_latest(root: Path, name: str) -> None:
    part = root / ".latest.part"
    part.write_text(name + "\n")
    _fsync(part)
    part.replace(root / "latest")
    _fsync(root)


def _drop_old(root: Path, keep: int) -> None:
    whole = [checkpoint for folder in root.glob(f"{PREFIX}*") if (checkpoint := read_checkpoint(folder))]
    for checkpoint in sorted(whole, key=lambda checkpoint: checkpoint.step)[:-keep]:
        shutil.rmtree(checkpoint.folder, ignore_errors=True)
