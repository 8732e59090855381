"""Rollbacks: a run goes back to a checkpoint from before its positions failed, with a lower rate for their maps.

A rollback is a record in checkpoints/rollbacks.json, on the disk before anything else happens. Then the run starts
again as after a kill, and the start carries the record out: it sets the newer checkpoints aside, logs the event, and
notes that this is done. So a kill at any moment loses nothing: the next start does what is left. Checkpoints hold a
copy of the records, in case that file is lost.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import xxhash

from common.files import write_text_whole
from report.probes import probe_files
from train.checkpoint.store import checkpoint_folders, corrupt_folders, name_latest, quarantine, step_of, whole_steps
from train.errors import TrainError
from train.run_folder import RunFolder
from train.watch.alert import Alert
from train.watch.config import PositionWatchConfig

ROLLBACKS = "rollbacks.json"
SET_ASIDE = "rollback-{}-"  # how the names of checkpoints begin that a rollback has set aside


@dataclass(frozen=True)
class Rollback:
    """One return to an earlier checkpoint."""

    number: int
    """Of the run's rollbacks, from 1."""
    step: int
    """That the run had reached."""
    to_step: int
    """Of the checkpoint that it went back to; 0: the initial weights."""
    kind: str
    """The alert's, as are the next three."""
    where: str
    since: int
    message: str
    factor: float
    """Multiplies the rate of the maps from then on, with the factors of earlier rollbacks."""
    warmup_steps: int
    """Steps of a linear warm-up of the maps after it."""
    is_done: bool = False
    """Whether newer checkpoints are set aside."""

    @property
    def summary(self) -> str:
        """What happened and why, in one sentence."""
        place = f"the checkpoint of step {self.to_step}" if self.to_step else "the initial weights"
        return f"rollback {self.number}, from step {self.step} to {place}: {self.kind} in {self.message}"


def rate_factor(rollbacks: Sequence[Rollback], step: int) -> float:
    """Returns what rollbacks multiply the maps' learning rate by at update `step`."""
    if not rollbacks:
        return 1.0
    last = rollbacks[-1]
    num_steps = step - last.to_step  # none is left of the warm-up where a run resumes from before the rollback's target
    warmup = min(1.0, num_steps / last.warmup_steps) if last.warmup_steps and num_steps > 0 else 1.0
    return math.prod(rollback.factor for rollback in rollbacks) * warmup


def read_rollbacks(root: Path) -> list[Rollback]:
    """Returns the records in the folder of checkpoints, the oldest first. Raises TrainError if they are damaged."""
    path = root / ROLLBACKS
    try:
        content = json.loads(path.read_bytes())
        rollbacks = content["rollbacks"]
        if content["digest"] != _digest(rollbacks):
            raise ValueError
        return parse_rollbacks(rollbacks)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise TrainError(f"cannot read {path}: {error.strerror}; repair that, and start again") from error
    except (ValueError, KeyError, TypeError, RecursionError):
        raise TrainError(
            f"{path} is damaged: restore it from a backup, or delete it to continue with the copy in the checkpoint"
        ) from None


def write_rollbacks(root: Path, rollbacks: Sequence[Rollback]) -> None:
    """Writes the records, and flushes them to the disk. Raises OSError."""
    plain = plain_rollbacks(rollbacks)
    text = json.dumps({"digest": _digest(plain), "rollbacks": plain}, indent=1)
    write_text_whole(root / ROLLBACKS, text, durable=True)


def parse_rollbacks(plain: Sequence[dict[str, Any]]) -> list[Rollback]:
    """Returns the records that `plain_rollbacks` made plain."""
    return [Rollback(**fields) for fields in plain]


def plain_rollbacks(rollbacks: Sequence[Rollback]) -> list[dict[str, Any]]:
    """Returns the records as plain data."""
    return [asdict(rollback) for rollback in rollbacks]


def record_rollback(
    root: Path, rollbacks: Sequence[Rollback], step: int, alert: Alert, watch: PositionWatchConfig, interval: int
) -> str | None:
    """Records the rollback that follows from an alert at `step`; returns why there is none, or None.

    `interval` is that between checkpoints.
    """
    if len(rollbacks) >= watch.max_rollbacks:
        return f"the run was rolled back {len(rollbacks)} times already (position_watch.max_rollbacks)"
    to_step = choose_step(whole_steps(root), rollbacks, alert.since, interval)
    if to_step is None:
        return f"no checkpoint from before step {alert.since} is left to go back to (checkpoint.keep)"
    new = Rollback(
        number=len(rollbacks) + 1,
        step=step,
        to_step=to_step,
        kind=alert.kind,
        where=alert.where,
        since=alert.since,
        message=alert.message,
        factor=watch.rollback_factor,
        warmup_steps=watch.rollback_warmup_steps,
    )
    try:
        root.mkdir(parents=True, exist_ok=True)
        write_rollbacks(root, [*rollbacks, new])
    except OSError as error:
        return f"the rollback could not be recorded ({error.strerror})"
    return None


def choose_step(steps: Sequence[int], rollbacks: Sequence[Rollback], since: int, interval: int) -> int | None:
    """Returns the step of the checkpoint to go back to, of those of these steps; 0: the initial weights; None: none.

    That is the last one before step `since`. If a rollback has gone back to it, and the failure came again, it may hold
    the failure already, so the one before it is chosen, if there is one. The initial weights are chosen only if no more
    than `interval` steps are lost, as with any checkpoint.
    """
    before = sorted(step for step in steps if step < since)
    later = [*(rollback.to_step for rollback in rollbacks[1:]), since]
    used = {  # a later rollback further back has set that checkpoint aside: one of this step is new
        rollback.to_step for place, rollback in enumerate(rollbacks) if rollback.to_step <= min(later[place:])
    }
    if unused := [step for step in before if step not in used]:
        return unused[-1]
    if before:
        return before[-1]
    return 0 if since <= interval else None


def complete_rollback(folder: RunFolder) -> list[Rollback]:
    """Carries out the last recorded rollback if that is not done; returns all records.

    To be called on the main rank, before a checkpoint is chosen. After a kill at any moment, it does what is left.
    """
    root, rollbacks = folder.checkpoints, read_rollbacks(folder.checkpoints)
    if not rollbacks or rollbacks[-1].is_done:
        return rollbacks
    *earlier, last = rollbacks
    print(f"{folder.path.name}: {last.summary}", flush=True)
    for newer in checkpoint_folders(root):
        if (step_of(newer.name) or 0) > last.to_step:
            quarantine(newer, SET_ASIDE.format(last.number))
    if not last.to_step:  # damaged checkpoints would keep the run from beginning again
        for damaged in corrupt_folders(root):
            quarantine(damaged, SET_ASIDE.format(last.number))
    name_latest(root)
    for step, file in probe_files(folder.probes).items():
        if step > last.to_step:  # positions that this run no longer has
            file.unlink(missing_ok=True)
    if not any(
        event.get("event") == "rollback" and event.get("number") == last.number for event in folder.read_events()
    ):
        fields = asdict(last)
        del fields["is_done"], fields["message"]
        folder.log_event("rollback", **fields, message=last.summary)
    rollbacks = [*earlier, replace(last, is_done=True)]
    write_rollbacks(root, rollbacks)
    return rollbacks


def _digest(plain: Any) -> str:
    return xxhash.xxh3_128_hexdigest(json.dumps(plain, sort_keys=True).encode())
