"""Copies of a live run folder, damaged at random and then continued: each resumes, or is refused with a reason."""

import contextlib
import random
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.chaos.compare import figures
from tests.chaos.job import HANG_SECONDS, Job
from train.errors import EXIT_OK, EXIT_USER_ERROR
from train.run_folder import RunFolder

STEPS_AFTER = 2  # that a continued copy makes beyond what the run had logged
UNUSED = (".lock", "report.html", "latest")  # names of files that no start reads
MANNERS = ("a bit flipped", "truncated", "emptied", "deleted", "a block of zeros")


@dataclass
class Snapshot:
    """One damaged copy and what became of it."""

    damage: str
    outcome: str
    """resumed, refused, or what went wrong."""
    folder: RunFolder
    kept_from: int
    """Step after which every row was written after the damage."""
    is_hopeless: bool
    """Whether no checkpoint was left whole."""

    @property
    def is_good(self) -> bool:
        """Whether it was resumed, or refused with a reason; if it is hopeless, the latter."""
        return self.outcome.startswith("refused: " if self.is_hopeless else ("resumed", "refused: "))


def copy_live(folder: Path, place: Path) -> None:
    """Copies a folder while its files change; what vanishes meanwhile is left out."""
    with contextlib.suppress(shutil.Error):
        shutil.copytree(folder, place, ignore=shutil.ignore_patterns("wandb"))


def damage_some(folder: Path, rng: random.Random) -> str:
    """Damages one to three files; returns how."""
    files = sorted(path for path in folder.rglob("*") if path.stat().st_size and path.is_file())
    files = [path for path in files if path.name not in UNUSED]
    return "; ".join(
        f"{path.relative_to(folder)}: {damage_file(path, rng)}" for path in rng.sample(files, rng.randint(1, 3))
    )


def damage_all(folder: Path, rng: random.Random) -> str:
    """Damages a file of every checkpoint; returns how."""
    files = [
        rng.choice(sorted(path for path in checkpoint.glob("*.pt") if path.stat().st_size))
        for checkpoint in sorted(folder.glob("checkpoints/step-*"))
    ]
    return "; ".join(f"{path.relative_to(folder)}: {damage_file(path, rng)}" for path in files)


def damage_file(path: Path, rng: random.Random) -> str:
    """Damages a file; returns how."""
    manner, content = rng.choice(MANNERS), bytearray(path.read_bytes())
    place = rng.randrange(len(content))
    if manner == "deleted":
        path.unlink()
        return manner
    if manner == "a bit flipped":
        content[place] ^= 1 << rng.randrange(8)
    elif manner == "truncated":
        del content[place:]
    elif manner == "emptied":
        content.clear()
    else:
        size = min(512, len(content) - place)
        content[place : place + size] = bytes(size)
    path.write_bytes(content)
    return manner


def try_snapshot(job: Job, rng: random.Random, zero_stage: int, number: int, *, is_hopeless: bool = False) -> Snapshot:
    """Copies the live run, damages the copy, and continues it beside the live run."""
    job.until_steps(rng.randint(1, 5))
    if is_hopeless:
        saved = job.num_saved()
        job.until(lambda: job.num_saved() > saved)  # the next save is some time away
    name = f"copy-{number}"
    copy = Job(job.root, name, job.root, job.data_root, "data.num_workers=0", "wandb.mode=disabled")
    copy_live(job.folder.path, copy.folder.path)
    last_step = copy.last_step() + STEPS_AFTER
    damage = (damage_all if is_hopeless else damage_some)(copy.folder.path, rng)
    copy.start(zero_stage, last_step, "logging.report_seconds=null")
    try:
        code = copy.wait()
    except subprocess.TimeoutExpired:
        for process in copy.processes():
            process.kill()
        return Snapshot(damage, f"no end within {HANG_SECONDS:.0f} s", copy.folder, last_step, is_hopeless)
    resumed = [event["step"] for event in copy.folder.read_events() if event.get("event") in ("start", "resume")]
    lines = [line for line in copy.printed().splitlines() if line.startswith("error: ")]
    if code == EXIT_OK:
        outcome = f"resumed after step {resumed[-1]}" if resumed else "resumed"
    elif code == EXIT_USER_ERROR and lines and "Traceback" not in copy.printed():
        outcome = f"refused: {lines[0].removeprefix('error: ')}"
    else:
        outcome = f"ended with {code}: {copy.printed()[-1500:]}"
    return Snapshot(damage, outcome, copy.folder, resumed[-1] if resumed else last_step, is_hopeless)


def differing_rows(snapshot: Snapshot, undisturbed: RunFolder) -> list[int]:
    """Returns the steps after the damage whose figures are not those of an undisturbed run."""
    found, right = figures(snapshot.folder), figures(undisturbed)
    return [step for step in found if step > snapshot.kept_from and found[step] != right.get(step)]
