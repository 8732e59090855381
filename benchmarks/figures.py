"""The form in which every benchmark gives its figures, so that `python -m benchmarks` can print one table of them.

A script calls `report`, which prints a line for each figure. Started by `python -m benchmarks` it also writes them to
the file that the environment names.
"""

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, NoReturn

from common.json_lines import read_json_lines

FILE_VARIABLE = "BENCHMARK_FIGURES"
"""Environment variable: a file to which figures are appended, one JSON object per line."""
LEFT_OUT = 77
"""Exit code of a benchmark that cannot run here."""


class Origin(StrEnum):
    """How a figure is known."""

    calculated = "calculated"
    counted = "counted"
    measured = "measured"


@dataclass(frozen=True)
class Figure:
    """One number of a benchmark, with the bound that it should keep, if there is one."""

    what: str
    value: float
    unit: str = ""
    at_most: float | None = None
    at_least: float | None = None
    origin: Origin = Origin.measured

    @property
    def target(self) -> str:
        """The bound in words; empty without one."""
        bounds = (("at most", self.at_most), ("at least", self.at_least))
        return " and ".join(f"{word} {_with_unit(bound, self.unit)}" for word, bound in bounds if bound is not None)

    @property
    def is_met(self) -> bool | None:
        """Whether the target is met; None without one."""
        if not self.target:
            return None
        least = float("-inf") if self.at_least is None else self.at_least
        most = float("inf") if self.at_most is None else self.at_most
        return least <= self.value <= most

    @property
    def shown(self) -> str:
        """The value in three digits or more, with its unit."""
        return _with_unit(self.value, self.unit)

    @property
    def verdict(self) -> str:
        """Whether the target is met, in a word; empty without a target."""
        return {True: "met", False: "**missed**", None: ""}[self.is_met]


def _with_unit(value: float, unit: str) -> str:
    number = f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return f"{number} {unit}".rstrip()


def report(*figures: Figure) -> None:
    """Prints each figure on a line, and appends it to the file that the environment names, if it does."""
    for figure in figures:
        target = f" (target: {figure.target}, {figure.verdict})" if figure.target else ""
        print(f"{figure.what}: {figure.shown}{target}", flush=True)
        _append(asdict(figure))


def leave_out(reason: str) -> NoReturn:
    """Ends the process, because what the benchmark needs is not here."""
    print(f"left out: {reason}", flush=True)
    _append({"left_out": reason})
    sys.exit(LEFT_OUT)


def _append(line: dict[str, Any]) -> None:
    if path := os.environ.get(FILE_VARIABLE):
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def read(path: Path) -> tuple[list[Figure], str]:
    """Returns the figures that a benchmark has written to a file, and why it is left out; empty if it is not."""
    rows = list(read_json_lines(path))  # without the half line that a killed one leaves
    reasons = [row.pop("left_out") for row in rows if "left_out" in row]
    return [Figure(**{**row, "origin": Origin(row["origin"])}) for row in rows if row], "; ".join(reasons)


def markdown_table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Returns a Markdown table."""
    head, *body = ("| " + " | ".join(cells) + " |\n" for cells in (titles, *rows))
    return "".join((head, "|---" * len(titles) + "|\n", *body))
