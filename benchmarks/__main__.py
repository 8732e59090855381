"""Runs the benchmarks, each in a process of its own, and prints one table of their figures beside their targets.

    python -m benchmarks                      all that take minutes (an hour on two cores)
    python -m benchmarks step precision       some of them; `python -m benchmarks.NAME --help` says what one does

A benchmark that needs what is not here, as a GPU, is a line that says so. The exit code is 1 if one broke; a missed
target is a result. What each prints is in a file beside the table.
"""

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.figures import FILE_VARIABLE, LEFT_OUT, Figure, markdown_table, read
from common.command_line import Parser
from common.files import write_text_whole

FOLDER = Path(__file__).parent
PARTS = ("figures", "gpu_bench", "gpu_parts", "gpu_speed")
"""Files that are no benchmarks."""
BY_NAME = ("pictures", "watch_detectors")
"""Run only where they are named: the first writes into docs/ (`make pictures`), the second trains for an hour."""
OPTIONS = {"gpu": ("benchmarks.gpu", "--size", "1b"), "data_ranges_s3": ("benchmarks.data_ranges", "--s3")}
"""What is started for a name, where that is not the script of that name alone."""
TITLES = ("benchmark", "what", "figure", "target", "", "known by being")


@dataclass(frozen=True)
class Result:
    """What one benchmark has given."""

    figures: list[Figure]
    left_out: str
    """Why it could not run here; empty if it did."""
    broke: str
    """How it broke; empty if it did not."""
    seconds: float

    @property
    def line(self) -> str:
        """The result in one line."""
        if self.left_out:
            return f"left out: {self.left_out}"
        judged = [figure.is_met for figure in self.figures if figure.target]
        met = f", {sum(map(bool, judged))} of {len(judged)} targets met" if judged else ""
        numbers = f"{len(self.figures)} figures{met}, {self.seconds:.0f} s"
        return f"broke: {self.broke}; {numbers}" if self.broke else numbers


def commands() -> dict[str, list[str]]:
    """Returns the command of each benchmark by name."""
    names = {path.stem for path in FOLDER.glob("[a-z]*.py")} - {*PARTS} | {*OPTIONS}
    return {name: [sys.executable, "-m", *OPTIONS.get(name, (f"benchmarks.{name}",))] for name in sorted(names)}


def run_one(command: Sequence[str], log: Path) -> Result:
    """Runs a benchmark, with all that it prints in `log`."""
    file, start = log.with_suffix(".jsonl"), time.monotonic()
    file.unlink(missing_ok=True)
    with log.open("w", encoding="utf-8") as output:
        environment = {**os.environ, FILE_VARIABLE: str(file)}
        code = subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, env=environment, check=False).returncode
    figures, reason = read(file)
    last = (log.read_text(encoding="utf-8", errors="replace").strip().splitlines() or ["no output"])[-1]
    broke = "" if code in (0, LEFT_OUT) else f"exit code {code}, {last} ({log})"
    if not (figures or reason or broke):
        broke = f"it gave no figure ({log})"
    return Result(figures, reason, broke, time.monotonic() - start)


def run_all(chosen: Mapping[str, Sequence[str]], output: Path) -> dict[str, Result]:
    """Runs commands by name in turn, prints a line as each ends, and writes the table of all so far to `output`."""
    output.parent.mkdir(parents=True, exist_ok=True)
    results: dict[str, Result] = {}
    for name, command in chosen.items():
        results[name] = run_one(command, output.parent / f"{name}.log")
        print(f"{name}: {results[name].line}", flush=True)
        write_text_whole(output, f"# Benchmarks, {time.strftime('%Y-%m-%d')}\n\n{table(results)}", durable=False)
    return results


def table(results: Mapping[str, Result]) -> str:
    """Returns one Markdown table of all figures, with a line for each benchmark that broke or was left out."""
    rows: list[tuple[str, ...]] = []
    for name, result in results.items():
        rows += [(name, each.what, each.shown, each.target, each.verdict, each.origin) for each in result.figures]
        if result.left_out or result.broke:
            words = f"left out: {result.left_out}" if result.left_out else f"**broke**: {result.broke}"
            rows.append((name, words.replace("|", "/"), "", "", "", ""))
    return markdown_table(TITLES, rows)


def main() -> int:
    """Runs what the command line names; returns the exit code."""
    known = commands()
    parser = Parser(prog="python -m benchmarks", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"some of {', '.join(known)}")
    parser.add_argument("--output", type=Path, default=Path("runs/benchmarks/table.md"), help="file of the table")
    arguments = parser.parse_args()
    if unknown := [name for name in arguments.names if name not in known]:
        parser.error(f"there is no benchmark {unknown[0]}: choose from {', '.join(known)}")
    names = arguments.names or [name for name in known if name not in BY_NAME]
    results = run_all({name: known[name] for name in names}, arguments.output.resolve())
    print(f"\n{arguments.output.read_text(encoding='utf-8')}")
    return 1 if any(result.broke for result in results.values()) else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("stopped: the table has what ended before", file=sys.stderr)
        sys.exit(130)
