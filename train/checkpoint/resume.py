"""Resuming: which checkpoint a run continues from, and how it is loaded.

The newest whole checkpoint is used. A damaged one is moved aside first, with a line and an event, and the one before it
is tried. If none is whole, the run is refused: it never starts again from step 0 by itself.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from model.config import ModelConfig, PositionsConfig
from model.weights import Weights, parameter_shapes
from report.run_folder import DAMAGE
from train.checkpoint.generators import generator_file, reseed_generators, set_generator_state
from train.checkpoint.loading import only_known_types
from train.checkpoint.manifest import DamageError, FileRecord, find_damage
from train.checkpoint.store import (
    Checkpoint,
    Layout,
    checkpoint_folders,
    corrupt_folders,
    quarantine,
    read_checkpoint,
    step_of,
)
from train.checkpoint.universal import is_universal, make_universal, open_universal
from train.distributed import Ranks
from train.engine.engine import Engine
from train.errors import TrainError
from train.run_folder import RunFolder


@dataclass(frozen=True)
class Start:
    """What a run starts from: one of the fields, or neither for random weights."""

    resume: Checkpoint | None = None
    import_from: str | None = None


def choose_start(own: Checkpoint | None, init_from: str | None) -> Start:
    """Returns the run's own checkpoint if there is one, else `init_from`, else random weights.

    So the same command, run again, continues. train/huggingface/source.py says what `init_from` may be, and opens it.
    """
    return Start(resume=own) if own is not None else Start(import_from=init_from)


def find_checkpoint(folder: RunFolder, ranks: Ranks) -> Checkpoint | None:
    """Returns the newest whole checkpoint of a run, after comparing every byte with its digest; None for a new run.

    Collective; each rank verifies the files that the same rank wrote. Moves damaged checkpoints aside. Raises
    TrainError, on all ranks, if all are damaged, if a file cannot be read, or if another version wrote the newest.
    """
    while True:
        candidate = ranks.on_main(lambda: _newest(folder))
        if candidate is None:
            break
        mine = [item for item in candidate.files.items() if item[1].rank % ranks.world_size == ranks.rank]
        reports = ranks.gather(_verify(candidate.folder, mine))
        if errors := [error for _, error in reports if error is not None]:
            raise errors[0]
        damage = next((damage for damage, _ in reports if damage is not None), None)
        if damage is None:
            return candidate
        ranks.on_main(partial(_quarantine_and_log, folder, candidate.folder, damage))
    if corrupt := ranks.on_main(lambda: corrupt_folders(folder.checkpoints)):
        raise TrainError(
            f"no checkpoint of {folder.path} is whole, and {len(corrupt)} damaged: restore one from a backup, "
            f"delete {folder.checkpoints} to start from the beginning, or give the new run a name of its own"
        )
    return None


def _verify(folder: Path, files: list[tuple[str, FileRecord]]) -> tuple[str | None, TrainError | None]:
    """Returns the damage, or an error for all ranks to raise, since the others wait for this rank."""
    try:
        return find_damage(folder, files), None
    except TrainError as error:
        return None, error


def _newest(folder: RunFolder) -> Checkpoint | None:
    for candidate in checkpoint_folders(folder.checkpoints):
        try:
            return read_checkpoint(candidate)
        except DamageError as error:
            _quarantine_and_log(folder, candidate, str(error))
    return None


def _quarantine_and_log(folder: RunFolder, damaged: Path, damage: str) -> None:
    place = quarantine(damaged)
    print(f"{damaged} is damaged ({damage}): moved aside to {place.name}; trying the checkpoint before it", flush=True)
    what = {
        "reason": "damaged checkpoint",
        "folder": place.name,
        DAMAGE: damage,
        "message": f"{damaged.name}: {damage}",
    }
    folder.log_event("alert", step=step_of(damaged.name), **what)


def other_layout_weights(
    checkpoint: Checkpoint, layout: Layout, model: ModelConfig, positions: PositionsConfig, ranks: Ranks
) -> Weights | None:
    """Returns the weights of a checkpoint of another layout; None where `load_checkpoint` loads everything.

    Collective. The first time, the main rank converts the checkpoint to its universal form, and the others wait.
    """
    if checkpoint.layout == layout:
        return None
    ranks.on_main(lambda: _convert(checkpoint))
    universal, shapes = open_universal(checkpoint), parameter_shapes(model, positions)
    return lambda name: universal.weight(name).view(shapes[name])


def _convert(checkpoint: Checkpoint) -> None:
    if not is_universal(checkpoint):
        print(f"converting {checkpoint.folder}, so that it can be loaded into any number of ranks", flush=True)
        make_universal(checkpoint)


def load_checkpoint(checkpoint: Checkpoint, engine: Engine, layout: Layout, ranks: Ranks, seed: int) -> dict[str, Any]:
    """Restores the engine, whose layout is `layout`, and this rank's generators; returns the trainer's state.

    Collective. If the layout differs from the checkpoint's, the engine was built from `other_layout_weights`. If the
    number of ranks differs, the generators are seeded from the seed, the step and the rank.
    """
    with only_known_types(checkpoint.folder):
        if checkpoint.layout == layout:
            engine.load(checkpoint.folder)
        else:
            universal = open_universal(checkpoint)
            engine.load_optimizer(universal.moment, universal.num_updates)
        if checkpoint.layout.world_size == layout.world_size:
            set_generator_state(torch.load(generator_file(checkpoint.folder, ranks.rank)))
        else:
            reseed_generators(seed, checkpoint.step, ranks.rank)
    return checkpoint.trainer_state()
