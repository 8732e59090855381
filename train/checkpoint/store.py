"""The folder `checkpoints/`: what is in it, what becomes visible in it, what leaves it. Only the main rank changes it.

    step-0000100/            a whole checkpoint: DeepSpeed's files, rng-rank-NNNNN.pt, trainer.json, manifest.json
    step-0000100/universal/  the same state for any layout, once somebody has asked for it (universal.py)
    latest                   the name of the newest one, for people and DeepSpeed's tools; nothing here reads it
    .part-0000200/           being written, or left by a kill; so is anything that begins with a dot
    corrupt-step-0000100/    found damaged and moved aside; nobody but its owner deletes it

A folder gets its name, and loses it, by one rename: whatever is killed when, what is called step-NNNNNNN was whole.
"""

import json
import logging
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from train.checkpoint.manifest import (
    DamageError,
    FileRecord,
    VersionError,
    flush_to_disk,
    read_manifest,
    write_manifest,
)
from train.config import RunConfig
from train.engine_config import Precision
from train.errors import TrainError

logger = logging.getLogger(__name__)

PREFIX = "step-"
CORRUPT = "corrupt-"
ASIDE = ".part-"
LEAVING = ".old-"
TRAINER = "trainer.json"


@dataclass(frozen=True)
class Layout:
    """All that the contents of DeepSpeed's own files depend on. Another layout goes on by the universal form."""

    world_size: int
    zero_stage: int
    precision: str
    decay_embeddings: bool  # these two decide which parameters share a flat tensor
    decay_norms: bool

    @classmethod
    def of(cls, config: RunConfig, world_size: int, precision: Precision) -> "Layout":
        """The layout of a launch; `precision` is a resolved one."""
        optimizer = config.optimizer
        return cls(
            world_size, config.engine.zero_stage, precision.value, optimizer.decay_embeddings, optimizer.decay_norms
        )


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on disk, all of whose files have the right size."""

    folder: Path
    step: int
    layout: Layout
    files: dict[str, FileRecord]

    def trainer_state(self) -> dict[str, Any]:
        """What the trainer, the data stream and the callbacks saved."""
        state: dict[str, Any] = json.loads((self.folder / TRAINER).read_text())
        return state


def folder_name(step: int) -> str:
    """The name of a checkpoint's folder."""
    return f"{PREFIX}{step:07d}"


def step_of(name: str) -> int | None:
    """The inverse; None for other names."""
    match = re.fullmatch(rf"{PREFIX}(\d{{7,}})", name)
    return int(match[1]) if match else None


def checkpoint_folders(root: Path) -> list[Path]:
    """Everything that has the name of a checkpoint, newest step first."""
    named = [(step, path) for path in root.glob(f"{PREFIX}*") if (step := step_of(path.name)) is not None]
    return [path for _, path in sorted(named, reverse=True)]


def read_checkpoint(folder: Path) -> Checkpoint:
    """Raises DamageError unless the manifest is whole and every file has its size; else what `read_manifest` raises."""
    fields, files = read_manifest(folder)
    try:
        return Checkpoint(folder, fields["step"], Layout(**fields["layout"]), files)
    except (KeyError, TypeError):
        raise VersionError.of(folder) from None


def newest_checkpoint(root: Path) -> Checkpoint | None:
    """The newest that looks whole, by the sizes of its files."""
    return next(iter(_whole(root)), None)


def publish(root: Path, aside: Path, step: int, layout: Layout, files: dict[str, FileRecord]) -> Path:
    """Make what lies in `aside` the checkpoint of `step`; returns its folder. `settle` comes next."""
    write_manifest(aside, {"step": step, "layout": asdict(layout)}, files)
    final = root / folder_name(step)
    if final.exists():  # a run goes on from its newest step, and so never saves it again, but a person may copy one
        remove(final)
    aside.rename(final)
    return final


def settle(final: Path, keep: int, keep_every: int | None) -> None:
    """What follows a publication: `latest`, and room. Failures are warnings, as the checkpoint is there by then."""
    root = final.parent
    with _warning(final, "flushed"):
        flush_to_disk(root)
        with _warning(final, "named in `latest`"):
            _name_latest(final)
        with _warning(final, "made room for by deleting old ones"):
            drop_old(root, keep, keep_every)


def kept_steps(steps: Iterable[int], keep: int, keep_every: int | None) -> set[int]:
    """Of the whole checkpoints' steps: the newest `keep` (at least 1), and every multiple of `keep_every`."""
    steps = sorted(steps)
    return {*steps[-keep:], *(step for step in steps if keep_every and step % keep_every == 0)}


def drop_old(root: Path, keep: int, keep_every: int | None) -> None:
    """Delete the whole checkpoints that are not kept; damaged ones, and another version's, neither count nor go."""
    whole = {checkpoint.step: checkpoint.folder for checkpoint in _whole(root)}
    for step in whole.keys() - kept_steps(whole, keep, keep_every):
        remove(whole[step])


def remove(folder: Path) -> None:
    """Delete a folder so that a kill in the middle leaves none that looks like a checkpoint."""
    leaving = folder.with_name(f"{LEAVING}{folder.name}")
    shutil.rmtree(leaving, ignore_errors=True)
    folder.rename(leaving)
    shutil.rmtree(leaving, ignore_errors=True)  # what cannot be deleted now is a leftover


def clear_leftovers(folder: Path) -> None:
    """Delete what killed saves, conversions and deletions left in `folder`."""
    for pattern in (f"{ASIDE}*", f"{LEAVING}*"):
        for leftover in folder.glob(pattern):
            shutil.rmtree(leftover, ignore_errors=True)


def set_aside(folder: Path) -> Path:
    """Rename a damaged checkpoint so that nothing takes it for one; returns its new place."""
    root, number, place = folder.parent, 1, folder.with_name(f"{CORRUPT}{folder.name}")
    while place.exists():
        number += 1
        place = root / f"{CORRUPT}{folder.name}-{number}"
    folder.rename(place)
    flush_to_disk(root)
    return place


def corrupt_folders(root: Path) -> list[Path]:
    """What `set_aside` has moved and nobody has deleted."""
    return sorted(root.glob(f"{CORRUPT}{PREFIX}*"))


def _name_latest(final: Path) -> None:
    part = final.with_name(".latest.part")
    part.write_text(final.name + "\n")
    flush_to_disk(part)
    part.replace(final.with_name("latest"))
    flush_to_disk(final.parent)


@contextmanager
def _warning(final: Path, what: str) -> Iterator[None]:
    try:
        yield
    except (OSError, TrainError) as error:
        logger.warning("%s is saved, but could not be %s (%s): repair the disk", final, what, error)


def _whole(root: Path) -> list[Checkpoint]:
    """Those that look whole, newest first."""
    whole = []
    for folder in checkpoint_folders(root):
        with suppress(DamageError, VersionError):
            whole.append(read_checkpoint(folder))
    return whole
