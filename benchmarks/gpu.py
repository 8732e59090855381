"""What a GPU has to confirm, in one call of at most nine minutes: whether a run trains, how fast, in what memory.

    python -m benchmarks.gpu                 the 1B model on a GPU; without one, tiny shapes that test this script
    python -m benchmarks.gpu --out FOLDER    JSON of each part, and one table, in FOLDER (default runs/gpu)
    python -m benchmarks.gpu --only speed,profile

Each part runs in a process of its own with a limit of time, and writes each figure when it has it: a part that is cut
off, or fails, leaves what it found and takes nothing from the others. Figures stand beside their targets.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.figures import Figure, leave_out, report
from common.files import write_text_whole

PARTS = {"machine": 50, "correctness": 60, "training": 60, "speed": 210, "resume": 60, "profile": 60, "tests": 60}
"""Seconds that each part may take, in their order: what decides comes before what explains."""
MOST_SECONDS = 540.0
TIME_FACTORS = {"1b": 1, "tiny": 20}
"""By size, what limits of time are multiplied with: on a CPU that others use, times say nothing."""
ROOT = Path(__file__).parents[1]


class Notes:
    """The figures of a part, written to a file as they come."""

    def __init__(self, path: Path, part: str) -> None:
        self._path = path
        self.content: dict[str, Any] = {"part": part, "state": "cut off", "rows": [], "data": {}}
        self._write()

    def row(self, figure: str, value: Any, target: str = "", holds: bool | None = None) -> None:
        """Adds a figure for people, with its target and whether that holds; None: there is none to hold."""
        self.content["rows"].append({"figure": figure, "value": value, "target": target, "holds": holds})
        print(f"{figure}: {value}" + (f" (target: {target})" if target else ""), flush=True)
        self._write()

    def data(self, key: str, value: Any) -> None:
        """Adds numbers for programs."""
        self.content["data"][key] = value
        self._write()

    def end(self, state: str) -> None:
        """Notes how the part has ended."""
        self.content["state"] = state
        self._write()

    def _write(self) -> None:
        write_text_whole(self._path, json.dumps(self.content, indent=1) + "\n", durable=False)


def run_parts(
    parts: Sequence[str], size: str, out: Path, run: Callable[[Sequence[str], float], None]
) -> dict[str, Any]:
    """Runs the parts one after the other and returns their notes by name; the table is written after each.

    `run` takes a command and its limit in seconds.
    """
    out.mkdir(parents=True, exist_ok=True)
    end, results = time.monotonic() + TIME_FACTORS[size] * MOST_SECONDS, {}
    for part in parts:
        path = out / f"{part}.json"
        path.unlink(missing_ok=True)
        limit = min(TIME_FACTORS[size] * PARTS[part], end - time.monotonic())
        if limit > 0:
            print(f"== {part} (at most {limit:.0f} s)", flush=True)
            run([sys.executable, "-m", "benchmarks.gpu_parts", part, size, str(path)], limit)
        left = {"part": part, "state": "not run: no time was left" if limit <= 0 else "did not start"}
        results[part] = json.loads(path.read_text()) if path.exists() else {**left, "rows": [], "data": {}}
        write_text_whole(out / "gpu.json", json.dumps(results, indent=1) + "\n", durable=False)
        write_text_whole(out / "gpu.md", markdown(results, size), durable=False)
    return results


def run_limited(command: Sequence[str], limit: float) -> None:
    """Runs a command, and ends it after `limit` seconds."""
    process = subprocess.Popen(command, cwd=ROOT)
    try:
        process.wait(timeout=limit)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def markdown(results: dict[str, Any], size: str) -> str:
    """Returns one table of all figures, each beside its target."""
    lines = [f"# One GPU, size {size}", ""]
    marks = {True: "yes", False: "**no**", None: ""}
    for part, notes in results.items():
        lines += [f"## {part}: {notes['state']}", ""]
        if notes["rows"]:
            lines += ["| figure | measured | target | holds |", "|---|---|---|---|"]
        lines += [f"| {r['figure']} | {r['value']} | {r['target']} | {marks[r['holds']]} |" for r in notes["rows"]]
        lines.append("")
    return "\n".join(lines)


def main() -> int:
    """Runs the parts and prints the table; returns 1 if a part is not done. Missed targets are results, and named."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--size", choices=list(TIME_FACTORS), help="default: 1b with a GPU, tiny without")
    parser.add_argument("--out", type=Path, default=Path("runs/gpu"))
    parser.add_argument("--only", help=f"parts, with commas between: {', '.join(PARTS)}")
    arguments = parser.parse_args()
    parts = arguments.only.split(",") if arguments.only else list(PARTS)
    if unknown := [part for part in parts if part not in PARTS]:
        parser.error(f"there is no part {unknown[0]}: choose from {', '.join(PARTS)}")
    if arguments.size == "1b" and default_size() != "1b":
        leave_out("no GPU that torch can use")
    results = run_parts(parts, arguments.size or default_size(), arguments.out.resolve(), run_limited)
    print((arguments.out / "gpu.md").read_text())
    misses = [row["figure"] for notes in results.values() for row in notes["rows"] if row["holds"] is False]
    unfinished = [part for part, notes in results.items() if notes["state"] != "done"]
    print(f"targets missed: {', '.join(misses) or 'none'}; parts not done: {', '.join(unfinished) or 'none'}")
    report(Figure("targets missed, of those in the table of `benchmarks.gpu`", len(misses), at_most=0))
    return 1 if unfinished else 0


def default_size() -> str:
    """Returns the size for this machine."""
    import torch

    return "1b" if torch.cuda.is_available() else "tiny"


if __name__ == "__main__":
    sys.exit(main())
