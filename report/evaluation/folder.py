"""An evaluation folder, as sections of the page read it. Damaged rows and tables of another form are left out."""

import csv
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.json_lines import read_json_lines
from report.drawing import COLORS
from report.errors import ReportError


@dataclass(frozen=True)
class Evaluated:
    """The results of one model."""

    name: str
    """The folder's, with its parent's where two would have the same."""
    color: str
    """The model's in every drawing."""
    path: Path

    def table(self, name: str) -> list[dict[str, str]]:
        """Returns the rows of a CSV file by its header; none if there is no such file."""
        try:
            with (self.path / name).open(newline="", encoding="utf-8") as file:
                return [{key: value or "" for key, value in row.items() if key} for row in csv.DictReader(file)]
        except FileNotFoundError:
            return []

    def rows(self, name: str) -> list[dict[str, Any]]:
        """Returns the objects of a JSON-lines file; none if there is no such file."""
        return read_json_lines(self.path / name)

    def settings(self, name: str) -> dict[str, Any]:
        """Returns the object of a JSON file; an empty one if there is none."""
        try:
            found = json.loads((self.path / name).read_text())
        except (FileNotFoundError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}


def open_folders(paths: Sequence[Path]) -> list[Evaluated]:
    """Returns the folders with a name and a colour each. Raises ReportError if one is absent or named twice."""
    resolved = [path.resolve() for path in paths]
    for path in resolved:
        if not path.is_dir():
            raise ReportError(f"{path} is no folder: give one that `python -m evaluate` has written")
    if len(set(resolved)) < len(resolved):
        raise ReportError("a folder is named twice: give each once")
    names = [path.name for path in resolved]
    if len(set(names)) < len(names):
        names = [f"{path.parent.name}/{path.name}" for path in resolved]
    return [
        Evaluated(name, COLORS[number % len(COLORS)], path)
        for number, (name, path) in enumerate(zip(names, resolved, strict=True))
    ]


def colors(folders: Sequence[Evaluated]) -> Mapping[str, str]:
    """Returns the colour of each model by its name."""
    return {each.name: each.color for each in folders}


def number(text: str | None) -> float:
    """Returns a number of a table; not a number where there is none."""
    try:
        return float(text or "nan")
    except ValueError:
        return math.nan
