"""A disturbed run beside an undisturbed one: figures, rows, weights, and what lies about afterwards."""

import re
from pathlib import Path
from typing import Any

from common.json_lines import read_json_lines
from tests.chaos.job import Job
from train.run_folder import RunFolder

NOT_ALIKE = re.compile(  # names that differ between any two runs, or say which disturbances there were
    r"offline-run-[\w-]+|run-\w+\.wandb|corrupt-[\w-]+|\d+_[0-9a-f]{16,}|stuck|logs|debug[\w-]*\.log|metrics-superseded\.jsonl"
)


def figures(folder: RunFolder) -> dict[int, Any]:
    """Everything of each logged step that does not come from a clock."""
    return {
        row["step"]: {key: value for key, value in row.items() if not key.startswith("throughput/")}
        for row in folder.read_metrics()
    }


def differing_steps(folder: RunFolder, other: RunFolder) -> list[int]:
    """Steps that are missing in one of two runs, or differ in any bit of any figure."""
    first, second = figures(folder), figures(other)
    return [step for step in sorted(first.keys() | second.keys()) if first.get(step) != second.get(step)]


def rows_out_of_place(folder: RunFolder) -> int:
    """Returns how many lines of metrics.jsonl are not the next step, or cannot be read."""
    steps = [row["step"] for row in read_json_lines(folder.metrics)]
    num_lines = len(folder.metrics.read_text().splitlines())
    return sum(step != place for place, step in enumerate(steps, 1)) + num_lines - len(steps)


def has_same_weights(folder: RunFolder, other: RunFolder) -> bool:
    """Whether the exported weights are the same to the bit."""
    mine, theirs = (sorted(path.glob("*.safetensors")) for path in (folder.hf, other.hf))
    return [file.name for file in mine] == [file.name for file in theirs] and all(
        a.read_bytes() == b.read_bytes() for a, b in zip(mine, theirs, strict=True)
    )


def leftovers(job: Job, undisturbed: Job) -> dict[str, list[str]]:
    """Returns what a disturbed run leaves that an undisturbed one does not, by place."""
    mine, theirs = (_names(one.folder.path) for one in (job, undisturbed))
    temporary, usual = (sorted(path.name for path in one.temporary.iterdir()) for one in (job, undisturbed))
    return {
        "processes": [" ".join(process.cmdline()[:5]) for process in job.processes()],
        "files in the run folder": sorted(mine - theirs),
        "entries in TMPDIR": temporary[: max(0, len(temporary) - len(usual))],
        "partial files in the cache": [path.name for path in job.cache.rglob(".*") if ".partial" in path.name],
    }


def shared_memory() -> set[str]:
    """Returns the names in /dev/shm, where data workers and ranks leave what they share."""
    return {path.name for path in Path("/dev/shm").iterdir()}


def _names(folder: Path) -> set[str]:
    """The files of a run, without what differs between any two."""
    names = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return {str(name) for name in names if not any(NOT_ALIKE.fullmatch(part) for part in name.parts)}
