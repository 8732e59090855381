"""python -m tests.chaos --minutes N [--seed S]: random faults of all kinds on one job, beside an undisturbed run.

The job has two ranks and reads its data from a server that fails half of all requests. It is killed, stopped, its disk
is filled, its helpers are killed, and copies of its folder are damaged and continued, at random moments, under ZeRO 2,
3, 1 and 2 with conversions between them. Every kind comes once, in a random order; then kinds are drawn. Then the same
steps are trained undisturbed, and everything is compared.
Prints a Markdown table, and writes it to benchmarks/results/chaos.md.
"""

import argparse
import os
import platform
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

from tests.chaos.compare import (
    differing_steps,
    figures,
    has_same_weights,
    leftovers,
    rows_out_of_place,
    shared_memory,
)
from tests.chaos.faults import FAULTS, KILLS, NOT_MET, Incident, kill_some, stop
from tests.chaos.job import INTERVAL, ROOT, Job
from tests.chaos.server import failing_half
from tests.chaos.snapshots import Snapshot, differing_rows, try_snapshot
from tests.train.tiny import write_tokens
from train.errors import EXIT_OK

RESULT = ROOT / "benchmarks/results/chaos.md"
STAGES = (2, 3, 1, 2)
STEPS_AFTER = 4  # that the last launch of a stage makes beyond what is logged
WEIGHTS = {"kill": 4.0, "snapshot": 3.0}  # of a fault's probability; 1 for the others
MOST_TRIES = 4  # of a kind that does not find the process that it kills
HOPELESS = "snapshot without a whole checkpoint"
IN_MOUNT = "CHAOS_IN_MOUNT"  # environment variable
DISK = "size=192m"


@dataclass
class Result:
    """Everything that happened."""

    incidents: list[Incident] = field(default_factory=list)
    snapshots: list[Snapshot] = field(default_factory=list)
    ends: list[tuple[int, int]] = field(default_factory=list)
    """(ZeRO stage, last step) of each part."""
    problems: list[str] = field(default_factory=list)
    tries: Counter[str] = field(default_factory=Counter)
    """How often a fault was made, by its name."""
    met: set[str] = field(default_factory=set)
    """Faults that found what they are made for."""
    num_failed_requests: int = 0
    num_requests: int = 0


def disturb(job: Job, seconds: float, rng: random.Random, faults: list[str], result: Result) -> None:
    """Makes a run with faults for so long, an equal part of it under each stage, or until each kind has come once."""
    first = [*(name for name in faults if name != "kill"), HOPELESS, *KILLS]
    rng.shuffle(first)
    for number, stage in enumerate(STAGES, 1):
        deadline = time.monotonic() + seconds / len(STAGES)
        num_left = len(first) * (len(STAGES) - number) // (len(STAGES) - number + 1)
        job.start(stage)
        if result.ends and result.ends[-1][0] != stage:
            note(result, kill_some(job, rng, "conversion"))
        while time.monotonic() < deadline or len(first) > num_left:
            if not job.is_alive:
                job.start(stage)
            drawn = rng.choices(faults, [WEIGHTS.get(fault, 1.0) for fault in faults])[0]
            name = first.pop() if first else drawn
            make_fault(job, rng, name, stage, result)
            if name not in result.met and result.tries[name] < MOST_TRIES:
                first.insert(0, name)
        if job.is_alive:
            note(result, stop(job, rng))
        result.ends.append((stage, job.last_step() + STEPS_AFTER))
        to_end(job, *result.ends[-1])


def make_fault(job: Job, rng: random.Random, name: str, stage: int, result: Result) -> None:
    """Makes a fault, and adds what comes of it."""
    result.tries[name] += 1
    if name in ("snapshot", HOPELESS):
        number = len(result.snapshots)
        result.snapshots.append(try_snapshot(job, rng, stage, number, is_hopeless=name == HOPELESS))
        print(result.snapshots[-1].damage, "->", result.snapshots[-1].outcome, flush=True)
    else:
        note(result, {**FAULTS, **KILLS}[name](job, rng))
        if result.incidents[-1].outcome == NOT_MET:
            return
    result.met.add(name)


def note(result: Result, incident: Incident) -> None:
    """Adds and prints an incident."""
    result.incidents.append(incident)
    print(incident, flush=True)


def to_end(job: Job, stage: int, last_step: int) -> None:
    """Makes one launch that nothing disturbs. Raises AssertionError if it fails."""
    job.start(stage, last_step, "checkpoint.export_hf=true")
    code = job.wait()
    assert code == EXIT_OK, job.printed()[-3000:]


def compare(job: Job, undisturbed: Job, shared: set[str] | None, result: Result) -> dict[str, str]:
    """Returns what was compared, and what differs; adds to the problems.

    `shared` is what was in /dev/shm before, where no others use it.
    """
    steps = differing_steps(undisturbed.folder, job.folder)
    misplaced = rows_out_of_place(job.folder)
    same = has_same_weights(undisturbed.folder, job.folder)
    of_copies = sum(
        len(differing_rows(snapshot, undisturbed.folder)) for snapshot in result.snapshots if snapshot.is_good
    )
    bad = [snapshot for snapshot in result.snapshots if not snapshot.is_good]
    left = leftovers(job, undisturbed)
    if shared is not None:
        left["entries in /dev/shm"] = sorted(shared_memory() - shared)
    result.problems += [f"steps with other figures: {steps}"] * bool(steps)
    result.problems += [f"{misplaced} lines of metrics.jsonl are out of place"] * bool(misplaced)
    result.problems += ["the last weights differ"] * (not same)
    result.problems += [f"{of_copies} rows of continued copies differ"] * bool(of_copies)
    result.problems += [f"a copy with {snapshot.damage}: {snapshot.outcome}" for snapshot in bad]
    result.problems += [f"never met: {name}" for name in result.tries if name not in result.met]
    result.problems += [f"{place}: {', '.join(names[:8])}" for place, names in left.items() if names]
    return {
        "steps with any figure that differs in any bit": f"{len(steps)} of {len(figures(undisturbed.folder))}",
        "lines of metrics.jsonl that are lost, repeated or out of order": str(misplaced),
        "last weights": "the same to the bit" if same else "differ",
        "damaged copies that were neither resumed nor refused with a reason": f"{len(bad)} of {len(result.snapshots)}",
        "rows of resumed copies that differ": str(of_copies),
        **{f"left over: {place}": str(len(names)) for place, names in left.items()},
    }


def report(result: Result, compared: dict[str, str], options: argparse.Namespace, seconds: float) -> str:
    """Returns the result as Markdown."""
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "deepspeed"))
    counts = Counter((incident.fault, incident.moment, incident.outcome) for incident in result.incidents)
    outcomes = Counter(snapshot.outcome.split(" ")[0].rstrip(":") for snapshot in result.snapshots)
    counts |= Counter({("a damaged copy, continued", "step", outcome): n for outcome, n in outcomes.items()})
    kinds = ", ".join(map(str, STAGES))
    lines = [
        "# Faults of all kinds at random moments",
        "",
        f"{time.strftime('%Y-%m-%d')}, {platform.machine()}, Python {platform.python_version()}, {versions}, two gloo",
        f"ranks. `python -m tests.chaos --minutes {options.minutes:g} --seed {options.seed}` took {seconds / 60:.0f} "
        f"minutes: {sum(counts.values())} faults,",
        "each kind at least once,",
        f"over {result.ends[-1][1]} steps, a checkpoint every {INTERVAL} steps, ZeRO stages {kinds} in turn with a",
        "conversion between them. The data server failed "
        f"{result.num_failed_requests} of {result.num_requests} requests.",
        "",
        "| compared with an undisturbed run | |",
        "|---|---|",
        *(f"| {what} | {found} |" for what, found in compared.items()),
        "",
        *(f"- {problem}" for problem in result.problems),
        *([""] if result.problems else []),
        "| fault | moment | outcome | times |",
        "|---|---|---|---|",
        *(
            f"| {fault} | {moment} | {outcome} | {count} |"
            for (fault, moment, outcome), count in sorted(counts.items())
        ),
        "",
        "| damage to a copy | outcome |",
        "|---|---|",
        *(
            f"| {one.damage} | {one.outcome.splitlines()[0].replace(f'{one.folder.path.parent}/', '')[:300]} |"
            for one in result.snapshots
        ),
    ]
    return "\n".join(lines) + "\n"


def run(root: Path, disk: Path | None, options: argparse.Namespace) -> str:
    """Makes both runs; returns the result. `disk` is a small file system of its own, or None."""
    began, result, rng, shared = time.monotonic(), Result(), random.Random(options.seed), shared_memory()
    write_tokens(root / "tokens", num_files=24)
    faults = [*(name for name in FAULTS if name != "disk" or disk is not None), "snapshot"]
    offline = "wandb.mode=offline"
    with failing_half(root / "tokens", options.seed) as server:
        job = Job(root, "disturbed", disk or root, server.url, offline)
        try:
            disturb(job, 60 * options.minutes, rng, faults, result)
        finally:
            for process in job.processes():
                process.kill()
        result.num_failed_requests = server.num_failed
        result.num_requests = server.num_failed + server.num_answered
    undisturbed = Job(root, "undisturbed", root, str(root / "tokens"), offline)
    for stage, last_step in result.ends:
        to_end(undisturbed, stage, last_step)
    if options.keep:
        for folder in (root, *([job.folder.path] if disk else [])):
            shutil.copytree(folder, options.keep / folder.name, ignore=shutil.ignore_patterns("*-tmp", "*.sock*"))
    compared = compare(job, undisturbed, shared if disk else None, result)
    options.num_problems = len(result.problems)
    return report(result, compared, options, time.monotonic() - began)


def main() -> int:
    """Parses the command line; returns 1 if anything differs or is left over."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.chaos", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=10.0, help="how long faults are made")
    parser.add_argument("--seed", type=int, default=0, help="of faults, their moments and the server's failures")
    parser.add_argument("--keep", type=Path, help="a folder that gets both runs, the copies and what they printed")
    parser.add_argument("--result", type=Path, default=RESULT, help="the file that is written")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        root, disk = Path(name), Path(name) / "disk"
        disk.mkdir()
        if IN_MOUNT not in os.environ and subprocess.run(["unshare", "--mount", "true"], check=False).returncode == 0:
            again = [sys.executable, "-m", "tests.chaos", *sys.argv[1:]]
            mounts = f'mount -t tmpfs -o {DISK} tmpfs "$0" && mount -t tmpfs tmpfs /dev/shm'
            script = f'{mounts} && exec "$@"'
            command = ["unshare", "--mount", "sh", "-c", script, str(disk), *again]
            return subprocess.run(command, env={**os.environ, IN_MOUNT: str(disk)}, check=False).returncode
        mounted = os.environ.get(IN_MOUNT)
        text = run(root, Path(mounted) if mounted else None, options)
    options.result.parent.mkdir(parents=True, exist_ok=True)
    options.result.write_text(text)
    print(text)
    return 1 if options.num_problems else 0


if __name__ == "__main__":
    sys.exit(main())
