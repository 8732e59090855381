"""python -m tests.chaos [--kills 50] [--seed N]: more kills than `make test` has time for, through four ZeRO stages.

Writes benchmarks/results/chaos.md: the date, the versions, every kill, and whether any figure differed.
"""

import argparse
import platform
import sys
import tempfile
import time
from collections import Counter
from importlib.metadata import version
from pathlib import Path

from tests.chaos.harness import INTERVAL, ROOT, Kill, Segment, differences, losses, run_undisturbed, run_with_kills
from train.run_folder import RunFolder

RESULT = ROOT / "benchmarks/results/chaos.md"
STAGES = (2, 3, 1, 2)


def segments(num_kills: int) -> list[Segment]:
    """Returns a segment for each stage, kills divided evenly."""
    shares = [num_kills // len(STAGES) + (place < num_kills % len(STAGES)) for place in range(len(STAGES))]
    return [Segment(share, stage) for stage, share in zip(STAGES, shares, strict=True)]


def report(kills: list[Kill], seed: int, seconds: float, steps: int, differing: list[int]) -> str:
    """Returns the result as Markdown."""
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "deepspeed"))
    counts = Counter((kill.target, kill.moment) for kill in kills)
    lines = [
        "# Kills at random moments",
        "",
        f"{time.strftime('%Y-%m-%d')}, {platform.machine()}, Python {platform.python_version()}, {versions}, two gloo",
        f"ranks. `python -m tests.chaos --kills {len(kills)} --seed {seed}` took {seconds / 60:.0f} minutes:",
        f"{len(kills)} kills with SIGKILL over {steps} steps, a checkpoint every {INTERVAL} steps, ZeRO stages",
        f"{', '.join(map(str, STAGES))} in turn with a conversion between them.",
        "",
        f"**Steps with any figure that differs from the undisturbed run in any bit: {len(differing)} of {steps}.**",
        *([f"They are {differing}."] if differing else []),
        "",
        "| killed | moment | times |",
        "|---|---|---|",
        *(f"| {target} | {moment} | {count} |" for (target, moment), count in sorted(counts.items())),
        "",
        "| # | killed | moment | seconds after launch | last logged step | launcher's exit code |",
        "|---|---|---|---|---|---|",
        *(
            f"| {number} | {kill.target} | {kill.moment} | {kill.seconds} | {kill.last_step} | {kill.code} |"
            for number, kill in enumerate(kills, 1)
        ),
    ]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Makes both runs and writes the result; returns 1 if any figure differs."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        root, began = Path(name), time.monotonic()
        kills, ended = run_with_kills(root, "killed", segments(options.kills), seed=options.seed)
        run_undisturbed(root, "undisturbed", ended)
        folders = RunFolder(root / "undisturbed"), RunFolder(root / "killed")
        differing, steps = differences(*folders), len(losses(folders[0]))
        assert steps == ended[-1].last_step
        text = report(kills, options.seed, time.monotonic() - began, steps, differing)
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(text)
    print(text)
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
