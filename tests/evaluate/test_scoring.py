"""Scores of hand-made outputs; RULER's are those that NVIDIA's own code has given.

ruler_outputs.jsonl holds outputs to questions of our tasks, right, wrong and hostile, with the percent that
NVIDIA/RULER gives at c3f5e3b4f87f97e048793bb510a3a6b19a46bf3a: postprocess_pred of scripts/eval/evaluate.py, then the
task's metric_fn of scripts/eval/synthetic/constants.py.
"""

import json
from pathlib import Path

import pytest

from evaluate.config import parse_config
from evaluate.scoring import contained, in_first_line, in_order, normalised
from evaluate.tasks import build_tasks

OUTPUTS = [json.loads(line) for line in (Path(__file__).parent / "ruler_outputs.jsonl").read_text().splitlines()]
TASKS = build_tasks(parse_config([]))
PERCENT_OF_ALL = {  # by metric_fn, over all outputs of a task at once
    "niah_single_1": 58.82,
    "niah_single_2": 58.82,
    "niah_single_3": 58.82,
    "niah_multikey_1": 58.82,
    "niah_multikey_2": 58.82,
    "niah_multikey_3": 58.82,
    "niah_multivalue": 31.62,
    "niah_multiquery": 31.62,
    "vt": 34.31,
    "cwe": 33.82,
    "fwe": 35.29,
    "facts_1": 58.82,
    "facts_2": 55.88,
}

BABBLE = " ".join(str(number) for number in range(100))
RECORDED = [  # output, gold strings, percent by postprocess_pred and string_match_all
    (" 4729184.", ["4729184"], 100.0),
    ("", ["4729184"], 0.0),
    ("\x00\t \n", ["4729184"], 0.0),
    (" 4729184, 1111111 and 2222222", ["4729184", "1111111", "3333333", "4444444"], 50.0),
    (" abcde FGHIJ\nVAR", ["ABCDE", "FGHIJ", "KLMNO"], 66.67),
    ("1. start 2. party", ["art", "start"], 100.0),
    ("47\x0029184", ["4729184"], 0.0),
    (BABBLE, ["41", "50"], 100.0),
]


@pytest.mark.parametrize(("output", "gold", "percent"), RECORDED)
def test_contained_is_what_nvidias_scorer_gives(output: str, gold: list[str], percent: float) -> None:
    assert round(100 * contained(output, gold), 2) == percent


@pytest.mark.parametrize("name", PERCENT_OF_ALL)
def test_recorded_outputs_have_nvidias_scores(name: str) -> None:
    score = TASKS[name].score
    outputs = [each for each in OUTPUTS if each["task"] == name]
    found = [score(each["output"], each["gold"]) for each in outputs]
    assert [round(100 * share, 2) for share in found] == [each["percent"] for each in outputs]
    assert len(found) == 34 and round(100 * sum(found) / len(found), 2) == PERCENT_OF_ALL[name]


@pytest.mark.parametrize(
    ("output", "score"),
    [
        (" Balomi", 1),
        (" the BALOMI.\nQuestion:", 1),
        (" Tarako, Balomi", 1),
        ("", 0),
        ("\nBalomi", 0),  # the paper stops at the end of the line
        (" Balo mi", 0),
        (" Bal-omi", 1),  # SQuAD takes punctuation out
    ],
)
def test_a_cell_is_looked_for_in_the_first_line(output: str, score: int) -> None:
    assert in_first_line(output, ["Balomi"]) == score


def test_texts_are_normalised_as_squad_does() -> None:
    assert normalised(" The  cat, an Owl\tand a dog's theory!") == "cat owl and dogs theory"


@pytest.mark.parametrize(
    ("output", "gold", "share"),
    [
        (" a b c", "abc", 1.0),
        (" A, b; c.\nList: x", "abc", 1.0),
        (" b a c", "abc", 1 / 3),
        ("x a b c", "abc", 0.0),  # all shifted by one
        (" a b", "abc", 2 / 3),
        ("", "abc", 0.0),
        (BABBLE, ["41"], 0.0),
    ],
)
def test_in_order_gives_nothing_for_babble(output: str, gold: list[str], share: float) -> None:
    assert in_order(output, list(gold)) == pytest.approx(share)
