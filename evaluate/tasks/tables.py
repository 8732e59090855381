"""Questions over a table with invented names: what the RePo paper calls structured data (arXiv 2512.14391, section 4).

It takes HybridQA, whose tables a model may have read. Three formats (Markdown, CSV, and a line `row R, column C: V` per
cell) by three questions: `cell` asks for the value in a row and a column, `row` for the row of a value, and `hops` for
a value in the row that another row's first column names. All values of a table are different. Size: rows.
"""

import random
from collections.abc import Callable, Sequence

from evaluate.config import ProbeConfig
from evaluate.scoring import in_first_line
from evaluate.tasks.task import Sample, Task
from evaluate.words import NUM_NAMES, different, name

TEMPLATE = (
    "Answer the question based on the given table. Only give me the answer and do not output any other words.\n\n"
    "{table}\n\nQuestion: {question} Answer:"
)
KEY = "Name"
SMALLEST = 3

Rows = Sequence[Sequence[str]]
Question = tuple[str, str]
"""What is asked, and the right answer."""


def markdown(header: Sequence[str], rows: Rows) -> str:
    """Returns a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def comma_separated(header: Sequence[str], rows: Rows) -> str:
    """Returns a CSV table; no value needs quotes."""
    return "\n".join(",".join(cells) for cells in [header, *rows])


def by_cell(header: Sequence[str], rows: Rows) -> str:
    """Returns a line for each cell but the key."""
    return "\n".join(
        f"row {key}, column {column}: {value}"
        for key, *values in rows
        for column, value in zip(header[1:], values, strict=True)
    )


def ask_cell(draw: random.Random, header: Sequence[str], rows: list[list[str]]) -> Question:
    """Asks for the value in a row and a column."""
    row, column = draw.choice(rows), draw.randrange(1, len(header))
    return f"What is the value of row {row[0]} in column {header[column]}?", row[column]


def ask_row(draw: random.Random, header: Sequence[str], rows: list[list[str]]) -> Question:
    """Asks for the row of a value."""
    row, column = draw.choice(rows), draw.randrange(1, len(header))
    return f"Which row has the value {row[column]} in column {header[column]}?", row[0]


def ask_hops(draw: random.Random, header: Sequence[str], rows: list[list[str]]) -> Question:
    """Lets the first column lead from each row to another one, and asks for a value of the row that one leads to.

    Which one is asked for is in neither the first column nor the first row's own.
    """
    around = draw.sample(range(len(rows)), len(rows))
    for place, row in enumerate(around):
        rows[row][1] = rows[around[place - 1]][0]
    place, column = draw.randrange(len(rows)), draw.randrange(2, len(header))
    start, end = rows[around[place]], rows[around[place - 1]]
    named = f"the row that is named in column {header[1]} of row {start[0]}"
    return f"What is the value in column {header[column]} of {named}?", end[column]


FORMATS: dict[str, Callable[[Sequence[str], Rows], str]] = {
    "markdown": markdown,
    "csv": comma_separated,
    "cells": by_cell,
}
QUESTIONS: dict[str, Callable[[random.Random, Sequence[str], list[list[str]]], Question]] = {
    "cell": ask_cell,
    "row": ask_row,
    "hops": ask_hops,
}


class Table(Task):
    """A table in a format, and a kind of question."""

    score = staticmethod(in_first_line)
    max_new_tokens = 32
    settings = ("num_columns",)

    def __init__(self, form: str, kind: str, num_columns: int) -> None:
        self._write, self._ask = FORMATS[form], QUESTIONS[kind]
        self._num_columns = num_columns
        self.smallest = SMALLEST
        self.largest = max(SMALLEST, NUM_NAMES // 2 // (num_columns + 1) - 1)

    def sample(self, draw: random.Random, size: int) -> Sample:
        """Returns the table and the question."""
        width = self._num_columns + 1
        names = different(lambda: name(draw), width * (size + 1), NUM_NAMES, "", set())
        header = [KEY, *names[1:width]]
        rows = [names[width * row : width * (row + 1)] for row in range(1, size + 1)]
        question, gold = self._ask(draw, header, rows)
        return Sample(TEMPLATE.format(table=self._write(header, rows), question=question), (gold,), f" {gold}")


def build(config: ProbeConfig) -> dict[str, Task]:
    """Returns the tasks of this file by name."""
    return {f"table_{kind}_{form}": Table(form, kind, config.num_columns) for kind in QUESTIONS for form in FORMATS}
