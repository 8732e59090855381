"""An evaluation folder, as sections of the page read it. Damaged rows and tables of another form are left out."""

import csv
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.json_lines import read_json_lines
from report.drawing import COLORS
from report.errors import ReportError

Form = Any
"""What a value of JSON has to be: a type (float stands for any number), a dict of forms by key, or a list with the form
of all values. The key "" stands for all keys.
"""
EVALUATIONS = Path("evaluations")
"""Where the results of models go, each in a folder of its name."""
HEADS = [[float]]
"""The form of a number for each layer and head."""


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
            with (self.path / name).open(newline="", encoding="utf-8", errors="replace") as file:
                return [{key: value or "" for key, value in row.items() if key} for row in csv.DictReader(file)]
        except (FileNotFoundError, csv.Error):
            return []

    def rows(self, name: str, form: Form) -> list[dict[str, Any]]:
        """Returns the objects of this form in a JSON-lines file; none if there is no such file."""
        return [row for row in read_json_lines(self.path / name) if has_form(row, form)]

    def by_length(self, name: str, form: Form) -> Iterator[tuple[str, int, list[dict[str, Any]]]]:
        """Yields NAME, LENGTH and the rows of this form of each file NAME-LENGTH.jsonl in a folder; files without such
        rows are left out.
        """
        for path in (self.path / name).glob("*-*.jsonl"):
            stem, _, length = path.stem.rpartition("-")
            rows = self.rows(f"{name}/{path.name}", form) if length.isdecimal() else []
            if rows:
                yield stem, int(length), rows

    def settings(self, name: str) -> dict[str, Any]:
        """Returns the object of a JSON file; an empty one if there is none."""
        try:
            found = json.loads((self.path / name).read_text())
        except (FileNotFoundError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}


def evaluations_of(run: str, root: Path) -> list[Path]:
    """Returns the evaluation folders of a run's models that there are: of its export, of its steps, newest first, and
    of its folder's own name.
    """
    steps = sorted(root.glob(f"{run}-step-*"), reverse=True)
    return [each for each in (root / f"{run}-hf", *steps, root / run) if each.is_dir()]


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


def has_form(value: object, form: Form) -> bool:
    """Returns whether a value has a form; an object may have further keys."""
    if isinstance(form, dict):
        if not isinstance(value, dict):
            return False
        if "" in form:
            return bool(value) and all(has_form(each, form[""]) for each in value.values())
        return all(key in value and has_form(value[key], own) for key, own in form.items())
    if isinstance(form, list):
        return isinstance(value, list) and bool(value) and all(has_form(each, form[0]) for each in value)
    types: Any = {float: int | float, float | None: int | float | None}.get(form, form)
    return isinstance(value, types) and not isinstance(value, bool)


def colors(folders: Sequence[Evaluated]) -> Mapping[str, str]:
    """Returns the colour of each model by its name."""
    return {each.name: each.color for each in folders}


def names_of(stated: object, count: int) -> list[str]:
    """Returns what settings say of `count` layers; empty names if they do not say it."""
    if not isinstance(stated, list) or len(stated) != count:
        return [""] * count
    return [str(each) for each in stated]


def number(text: str | None) -> float:
    """Returns a number of a table; not a number where there is none."""
    try:
        return float(text or "nan")
    except ValueError:
        return math.nan
