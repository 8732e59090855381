"""Keeps the records of a run, metrics.jsonl and events.jsonl, over power failures, bad sectors and deleted checkpoints.

Lines are only appended. Before a checkpoint is published, both files are flushed to the disk, and the checkpoint holds
a copy of them under its digests (`durable_records`): what it covers cannot be lost while it is there. A start compares
the files with the copies of the checkpoint it continues from, and every save compares them with what they held before,
so that no copy is made of a damaged file. Lines that are missing come back from the checkpoint, later ones from memory.
Lines that cannot be read go to a file of their own, `metrics-unreadable.txt` or `events-unreadable.txt`.

A checkpoint of version 0.1.0 has no copy. Rows that it should have, and that are nowhere else, are rebuilt from W&B's
file, as far as it has them (wandb_rows.py).

Rows of steps after the checkpoint are about to be written again: they are cut off the end of metrics.jsonl. If a later
checkpoint had covered them, which is now deleted or damaged, they go to `metrics-superseded.jsonl`, and so do all rows
where a run begins at step 0. events.jsonl keeps all lines; `RunFiles.read_events` says which of them count.
"""

import json
import logging
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

from common.json_lines import append_lines, json_object, read_bytes, replace_lines, split_lines
from report.metrics import STEP
from report.run_folder import step_of_row
from train.checkpoint.manifest import find_damage
from train.checkpoint.store import Checkpoint, newest_checkpoint
from train.errors import TrainError
from train.run_folder import RunFolder, explained_write_errors
from train.wandb_rows import read_rows

logger = logging.getLogger(__name__)

Judge = Callable[[bytes], bool]  # whether a line is one of the file's own


def mend_records(folder: RunFolder, checkpoint: Checkpoint | None) -> None:
    """Repairs both files as far as `checkpoint`, from which the run continues, covers them; prints what it repairs.

    Raises TrainError if a file cannot be written.
    """
    rows, events = (split_lines(_copy_of(path, checkpoint)) for path in (folder.metrics, folder.events))
    source = "" if checkpoint is None else checkpoint.folder.name
    with explained_write_errors(folder.path):
        _mend(folder, folder.metrics, rows, _row_judge(rows), source)
        _mend(folder, folder.events, events, _is_event, source)
        if checkpoint is not None:
            _rebuild_rows(folder, checkpoint)


def durable_records(folder: RunFolder) -> dict[str, bytes]:
    """Returns what a checkpoint is to hold of both files, by name, and flushes them to the disk.

    A file that has lost lines since it was last looked at is mended first, from the newest checkpoint and from memory;
    if that fails, as on a full disk, the next call tries again.
    """
    damaged: dict[Path, list[bytes]] = {}
    try:
        damaged = folder.damaged_records()
        for path, recent in list(damaged.items()):
            newest = newest_checkpoint(folder.checkpoints)
            known = split_lines(_copy_of(path, newest)) if newest and not _is_damaged(newest, path.name) else []
            judge = _row_judge([*known, *recent]) if path == folder.metrics else _is_event
            _mend(folder, path, known, judge, newest.folder.name if newest else "", recent)
            del damaged[path]
    except (OSError, TrainError) as error:
        logger.warning("%s has lost lines and could not be mended (%s)", folder.path, error)
    return folder.durable_records(damaged)


def drop_later_rows(folder: RunFolder, step: int) -> None:
    """Removes rows of steps after `step`, which are done again; prints a line if a checkpoint had covered them.

    Raises TrainError if the file cannot be written.
    """
    lines = split_lines(read_bytes(folder.metrics))
    later = {line: None for line in lines if step == 0 or _step_of(line) > step}
    checkpoints = [event for event in folder.read_events() if event.get("event") == "checkpoint"]
    saved = max((step_of_row(event) or 0 for event in checkpoints), default=0)
    with explained_write_errors(folder.path):
        if later and (saved > step or step == 0):
            aside = folder.path / "metrics-superseded.jsonl"
            append_lines(aside, later)
            begins = f"continues from step {step}" if step else "begins at step 0"
            although = f", although a checkpoint of step {saved} was saved" if saved > step else ""
            rows = "rows of later steps" if step else "rows that were"
            print(
                f"{folder.path} {begins}{although}: the {len(later)} {rows} in {folder.metrics.name} are moved to "
                f"{aside.name}",
                flush=True,
            )
        replace_lines(folder.metrics, [line for line in lines if line not in later])
        folder.remember_records()


def _mend(
    folder: RunFolder, path: Path, known: list[bytes], is_own: Judge, source: str, recent: Sequence[bytes] = ()
) -> None:
    """Makes a file hold the known lines, which are those of the checkpoint `source`, and then its own other ones.

    `recent`: lines that this process has appended, the last ones of the file.
    """
    lines = split_lines(read_bytes(path))
    there, found, kept, unreadable = {*known, *recent}, set(lines), list[bytes](), list[bytes]()
    for number, line in enumerate(lines):
        if line in there:
            continue
        # As long as the known line of its place, which is not there: that one with other bits, even if it can be read.
        is_altered = number < len(known) and known[number] not in found and len(line) == len(known[number])
        (unreadable if is_altered or not is_own(line) else kept).append(line)
    covered = set(known)
    sources = {source: len(covered - found), "memory": len(set(recent) - covered - found)}
    aside = path.with_name(f"{path.stem}-unreadable.txt")
    if unreadable:
        append_lines(aside, unreadable)
    replace_lines(path, [*known, *kept, *(line for line in recent if line not in covered)])
    if unreadable or any(sources.values()):
        done = [f"unreadable lines moved to {aside.name}: {len(unreadable)}"] if unreadable else []
        done += [f"lines restored from {place}: {number}" for place, number in sources.items() if number]
        print(f"{path} is damaged; {'; '.join(done)}", flush=True)
        folder.log_event("repair", file=path.name, unreadable=len(unreadable), restored=sum(sources.values()))


def _rebuild_rows(folder: RunFolder, checkpoint: Checkpoint) -> None:
    """Adds rows of steps up to the checkpoint's that are in W&B's file and nowhere else; prints that it does."""
    lines = split_lines(read_bytes(folder.metrics))
    interval = checkpoint.trainer_state()["config"]["logging"]["interval"]
    missing = set(range(interval, checkpoint.step + 1, interval)) - {_step_of(line) for line in lines}
    rows = {step: row for step, row in read_rows(folder.wandb).items() if step in missing} if missing else {}
    if not rows:
        return
    new = [*lines, *(json.dumps(row).encode() for row in rows.values())]
    replace_lines(folder.metrics, sorted(new, key=_step_of))
    print(
        f"{folder.metrics} lacks {len(missing)} rows, and {checkpoint.folder.name} has no copy of them; rebuilt from "
        f"W&B's file, without the figures of single heads: {len(rows)}",
        flush=True,
    )
    folder.log_event("repair", file=folder.metrics.name, missing=len(missing), rebuilt=len(rows))


def _is_damaged(checkpoint: Checkpoint, name: str) -> bool:
    """Returns whether the checkpoint's copy of a file is not what was saved."""
    return find_damage(checkpoint.folder, [item for item in checkpoint.files.items() if item[0] == name]) is not None


def _row_judge(known: list[bytes]) -> Judge:
    """Returns what judges rows of metrics: one of a step that has a known row is an altered copy of that one.

    Except for the last step: an evaluation that was repeated after a stop adds a line to it.
    """
    last = _step_of(known[-1]) if known else 0

    @cache
    def known_steps() -> set[int]:
        return {_step_of(line) for line in known}

    def is_own(line: bytes) -> bool:
        step = _step_of(line)
        return step >= last or (step >= 0 and step not in known_steps())

    return is_own


def _copy_of(path: Path, checkpoint: Checkpoint | None) -> bytes:
    """Returns what the checkpoint covers of this file; nothing if it has no copy, as older ones have not."""
    if checkpoint is None or path.name not in checkpoint.files:
        return b""
    return (checkpoint.folder / path.name).read_bytes()


def _step_of(line: bytes) -> int:
    """Returns the step of a line, or -1."""
    row = json_object(line)
    step = None if row is None else step_of_row(row)
    return -1 if step is None else step


def _is_event(line: bytes) -> bool:
    event = json_object(line)
    return event is not None and isinstance(event.get("event"), str) and (STEP not in event or _step_of(line) >= 0)
