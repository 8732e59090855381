"""Numbers with their nouns, and values as configs have them."""

from typing import Any

import pytest
import yaml

from common.words import config_text, counted


@pytest.mark.parametrize(
    ("number", "noun", "said"),
    [(1, "rank", "1 rank"), (8, "rank", "8 ranks"), (0, "step", "0 steps"), (128, "micro-batch", "128 micro-batches")],
)
def test_a_noun_has_the_plural_of_its_number(number: int, noun: str, said: str) -> None:
    assert counted(number, noun) == said


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (None, "null"),
        (True, "true"),
        (0.1, "0.1"),
        ("auto", "auto"),
        ("", '""'),
        (["rope", None, False], "[rope, null, false]"),
        ({"steps": 5, "lr": {"low": None}}, "{steps: 5, lr: {low: null}}"),
    ],
)
def test_a_value_is_written_as_a_config_has_it(value: Any, said: str) -> None:
    assert config_text(value) == said and yaml.safe_load(said) == value
