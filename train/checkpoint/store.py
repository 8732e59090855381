"""The folder `checkpoints/`: its names, publication, deletion and quarantine. Only the main rank changes it.

    step-0000100/            a whole checkpoint: DeepSpeed's files, rng-rank-NNNNN.pt, trainer.json, manifest.json,
                             copies of metrics.jsonl and events.jsonl as they were (train/records.py)
    step-0000100/universal/  the same state for any layout, made at the first use (universal.py)
    latest                   the name of the newest one, for people and DeepSpeed's tools; not read here
    .part-0000200/           being written, or left by a kill; so is anything that begins with a dot
    corrupt-step-0000100/    found damaged and moved aside; never deleted here
    rollback-1-step-0000100/  set aside by the run's first rollback (rollback.py); never deleted here
    rollbacks.json           the rollbacks of the run

A folder gets its name, and loses it, by one rename: after a kill at any moment, every step-NNNNNNN was whole.
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

from common.files import flush_to_disk, write_text_whole
from train.checkpoint.manifest import (
    MANIFEST,
    DamageError,
    FileRecord,
    VersionError,
    read_manifest,
    write_manifest,
)
from train.config import RunConfig
from train.engine.config import Precision
from train.errors import TrainError

logger = logging.getLogger(__name__)

PREFIX = "step-"
CORRUPT = "corrupt-"
PARTIAL = ".part-"
DELETED = ".old-"
TRAINER = "trainer.json"


@dataclass(frozen=True)
class Layout:
    """Everything that the contents of DeepSpeed's own files depend on. Another layout loads the universal form."""

    world_size: int
    zero_stage: int
    precision: str
    decay_embeddings: bool  # these two decide which parameters share a flat tensor
    decay_norms: bool

    @classmethod
    def of(cls, config: RunConfig, world_size: int, precision: Precision) -> "Layout":
        """Returns the layout of a launch; `precision` is a resolved one."""
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
        """Returns what the trainer, the data stream and the callbacks saved."""
        state: dict[str, Any] = json.loads((self.folder / TRAINER).read_text())
        return state


def folder_name(step: int) -> str:
    """Returns the name of a checkpoint's folder."""
    return f"{PREFIX}{step:07d}"


def step_of(name: str) -> int | None:
    """Returns the step in the name of a checkpoint's folder; None for other names."""
    match = re.fullmatch(rf"{PREFIX}(\d{{7,}})", name)
    return int(match[1]) if match else None


def checkpoint_folders(root: Path) -> list[Path]:
    """Returns everything that has the name of a checkpoint, newest step first."""
    named = [(step, path) for path in root.glob(f"{PREFIX}*") if (step := step_of(path.name)) is not None]
    return [path for _, path in sorted(named, reverse=True)]


def read_checkpoint(folder: Path) -> Checkpoint:
    """Returns a checkpoint whose manifest is whole and whose files have the right sizes.

    Raises DamageError if that is not so or if the name is that of another step, and what else `read_manifest` raises.
    """
    fields, files = read_manifest(folder)
    try:
        checkpoint = Checkpoint(folder, fields["step"], Layout(**fields["layout"]), files)
    except (KeyError, TypeError):
        raise VersionError.of(folder) from None
    if folder.name != folder_name(checkpoint.step):
        raise DamageError(f"{MANIFEST} is that of step {checkpoint.step}")
    return checkpoint


def whole_steps(root: Path) -> list[int]:
    """Returns the steps of the checkpoints that are whole by the sizes of their files, newest first."""
    return [checkpoint.step for checkpoint in _whole(root)]


def newest_checkpoint(root: Path) -> Checkpoint | None:
    """Returns the newest checkpoint that is whole by the sizes of its files, or None."""
    return next(iter(_whole(root)), None)


def publish(root: Path, partial: Path, step: int, layout: Layout, files: dict[str, FileRecord]) -> Path:
    """Renames `partial` to the checkpoint of `step`; returns its folder. `complete_publication` comes next."""
    write_manifest(partial, {"step": step, "layout": asdict(layout)}, files)
    final = root / folder_name(step)
    if final.exists():  # only where a person copied one: a run resumes from its newest step and never saves it again
        remove(final)
    partial.rename(final)
    return final


def complete_publication(final: Path, keep: int, keep_every: int | None, good_before: int | None = None) -> None:
    """Updates `latest` and deletes old checkpoints. Failures are warnings: the new checkpoint is already there."""
    root = final.parent
    with _warning(final, "flushed"):
        flush_to_disk(root)
        with _warning(final, "named in `latest`"):
            _name_latest(final)
        with _warning(final, "followed by deleting old ones"):
            drop_old(root, keep, keep_every, good_before)


def kept_steps(steps: Iterable[int], keep: int, keep_every: int | None) -> set[int]:
    """Returns the newest `keep` (at least 1) of these steps, and every multiple of `keep_every`."""
    steps = sorted(steps)
    return {*steps[-keep:], *(step for step in steps if keep_every and step % keep_every == 0)}


def good_step(steps: Iterable[int], before: int) -> int | None:
    """Returns the last of these steps before `before`, the last update with a finite gradient.

    That gradient was of the weights of this step, or of weights made from them: they are known to be good.
    """
    return max((step for step in steps if step < before), default=None)


def drop_old(root: Path, keep: int, keep_every: int | None, good_before: int | None = None) -> None:
    """Deletes the whole checkpoints that are not kept; leaves damaged ones, and another version's, alone.

    While updates are dropped because they are not finite, `good_before` is the last one that was not, and the newest
    checkpoint known to be good is kept as well: newer ones may all hold weights that give no finite gradient.
    """
    whole = {checkpoint.step: checkpoint.folder for checkpoint in _whole(root)}
    kept = kept_steps(whole, keep, keep_every)
    if good_before is not None:
        kept |= {step for step in [good_step(whole, good_before)] if step is not None}
    for step in whole.keys() - kept:
        remove(whole[step])


def remove(folder: Path) -> None:
    """Deletes a folder such that a kill in the middle leaves nothing with the name of a checkpoint."""
    deleted = folder.with_name(f"{DELETED}{folder.name}")
    _delete(deleted)
    folder.rename(deleted)
    _delete(deleted)  # what cannot be deleted now is cleared later


def clear_leftovers(folder: Path) -> None:
    """Deletes what killed saves, conversions and deletions left in `folder`."""
    for pattern in (f"{PARTIAL}*", f"{DELETED}*"):
        for leftover in folder.glob(pattern):
            _delete(leftover)


def _delete(path: Path) -> None:
    """Deletes a folder, or a file or link that has its name, as far as that is possible."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


def quarantine(folder: Path, prefix: str = CORRUPT) -> Path:
    """Puts `prefix` before the name of a checkpoint, so that it is not used again; returns its new path."""
    root, number, place = folder.parent, 1, folder.with_name(f"{prefix}{folder.name}")
    while place.exists():
        number += 1
        place = root / f"{prefix}{folder.name}-{number}"
    folder.rename(place)
    flush_to_disk(root)
    return place


def corrupt_folders(root: Path) -> list[Path]:
    """Returns the checkpoints that `quarantine` renamed and that are still there."""
    return sorted(root.glob(f"{CORRUPT}{PREFIX}*"))


def name_latest(root: Path) -> None:
    """Writes the name of the newest checkpoint, whole or not, into `latest`; deletes `latest` if there is none."""
    if folders := checkpoint_folders(root):
        _name_latest(folders[0])
    else:
        (root / "latest").unlink(missing_ok=True)


def _name_latest(final: Path) -> None:
    write_text_whole(final.with_name("latest"), final.name + "\n", durable=True)


@contextmanager
def _warning(final: Path, what: str) -> Iterator[None]:
    try:
        yield
    except (OSError, TrainError) as error:
        logger.warning("%s is saved, but could not be %s (%s): repair the disk", final, what, error)


def _whole(root: Path) -> list[Checkpoint]:
    """Returns the checkpoints that are whole by the sizes of their files, newest first."""
    whole = []
    for folder in checkpoint_folders(root):
        with suppress(DamageError, VersionError):
            whole.append(read_checkpoint(folder))
    return whole
