"""Questions over tables: every format holds the same cells, and one of them is the answer."""

import functools
import random
import re
from collections import Counter

import pytest

from evaluate.config import parse_config
from evaluate.errors import EvaluateError
from evaluate.tasks import build_tasks
from evaluate.tasks.tables import FORMATS, KEY, QUESTIONS
from evaluate.tasks.task import Sample, Task

SIZE, COLUMNS = 7, 3
ALL = [(kind, form) for kind in QUESTIONS for form in FORMATS]
Cells = dict[tuple[str, str], str]


@functools.cache
def tasks() -> dict[str, Task]:
    """Returns all tasks, those with tables of three columns."""
    return build_tasks(parse_config([f"num_columns={COLUMNS}"]))


def drawn(kind: str, form: str, seed: int) -> Sample:
    """Returns a sample."""
    return tasks()[f"table_{kind}_{form}"].sample(random.Random(seed), SIZE)


def read(sample: Sample, form: str) -> tuple[Cells, str]:
    """Returns the value of each row and column, and the question."""
    _, table, asked = sample.prompt.split("\n\n")
    lines = table.split("\n")
    if form == "cells":
        found = [re.fullmatch(r"row (\w+), column (\w+): (\w+)", line) for line in lines]
        cells = {(match[1], match[2]): match[3] for match in found if match}
        assert len(cells) == len(lines)
    else:
        if form == "markdown":
            assert lines.pop(1) == f"|{' --- |' * (COLUMNS + 1)}"
            lines = [line.removeprefix("| ").removesuffix(" |").replace(" | ", ",") for line in lines]
        (first, *header), *rows = (line.split(",") for line in lines)
        assert first == KEY
        cells = {(row[0], column): value for row in rows for column, value in zip(header, row[1:], strict=True)}
    return cells, asked.removeprefix("Question: ").removesuffix(" Answer:")


def answered(kind: str, question: str, cells: Cells) -> str:
    """Returns what a reader answers."""
    if kind == "cell":
        [(row, column)] = re.findall(r"^What is the value of row (\w+) in column (\w+)\?$", question)
        return cells[row, column]
    if kind == "row":
        [(value, column)] = re.findall(r"^Which row has the value (\w+) in column (\w+)\?$", question)
        [row] = [row for (row, own), cell in cells.items() if (own, cell) == (column, value)]
        return row
    pattern = r"^What is the value in column (\w+) of the row that is named in column (\w+) of row (\w+)\?$"
    [(column, by, row)] = re.findall(pattern, question)
    assert cells[row, by] != row and column != by
    return cells[cells[row, by], column]


@pytest.mark.parametrize("kind", QUESTIONS)
def test_one_answer_is_right(kind: str) -> None:
    places = Counter[int]()
    for seed in range(300):
        sample = drawn(kind, "csv", seed)
        cells, question = read(sample, "csv")
        assert sample.gold == (answered(kind, question, cells),) and sample.answer == f" {sample.gold[0]}"
        assert sample.gold[0] not in question and sample.prompt.count(sample.gold[0]) == 1
        places[sample.prompt.index(sample.gold[0]) * 10 // len(sample.prompt)] += 1
        names = [*{row for row, _ in cells}, *{column for _, column in cells}]
        values = [value for value in cells.values() if kind != "hops" or value not in names]
        assert len({*names, *values}) == len(names) + len(values)  # no name twice
    assert len(places) > 3


@pytest.mark.parametrize(("kind", "form"), ALL)
def test_every_format_holds_the_same_table_and_question(kind: str, form: str) -> None:
    for seed in range(10):
        sample = drawn(kind, form, seed)
        assert read(sample, form) == read(drawn(kind, "csv", seed), "csv")
        assert len(read(sample, form)[0]) == SIZE * COLUMNS


def test_the_first_column_leads_around_through_all_rows() -> None:
    orders = set()
    for seed in range(20):
        cells, question = read(drawn("hops", "csv", seed), "csv")
        by = re.findall(r"named in column (\w+)", question)[0]
        rows = list(dict.fromkeys(row for row, _ in cells))
        steps = [rows.index(cells[row, by]) for row in rows]
        around = [0]
        while (following := steps[around[-1]]) != 0:
            around.append(following)
        assert sorted(around) == list(range(SIZE))
        orders.add(tuple(steps))
    assert len(orders) > 15


@pytest.mark.parametrize(("kind", "form"), ALL)
def test_silence_and_another_cell_score_nothing(kind: str, form: str) -> None:
    task, sample = tasks()[f"table_{kind}_{form}"], drawn(kind, form, 0)
    cells, question = read(sample, form)
    assert task.score(sample.answer, sample.gold) == 1 and task.score(f" The {sample.gold[0]}!\nRow", sample.gold) == 1
    assert task.score("", sample.gold) == 0 and task.score(f"\n{sample.answer}", sample.gold) == 0
    others = {*cells.values(), *(row for row, _ in cells)} - set(sample.gold)
    assert not any(task.score(f" {other}", sample.gold) for other in others) and len(others) >= SIZE * COLUMNS - 1
    assert task.score(question, sample.gold) == 0
    assert task.score(" ".join([*others, *sample.gold]), sample.gold) == 1  # the paper's score: docs/evaluate.md


def test_a_table_needs_two_columns() -> None:
    with pytest.raises(EvaluateError, match="num_columns=1 must be 2 or more"):
        parse_config(["num_columns=1"])
