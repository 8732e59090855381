"""Scores of generated text, each from 0 to 1.

`contained` is RULER's string_match_all: the share of the gold strings that the output contains, in lower case, wherever
they are and whatever else is there. A model that lists every number of its context gets full marks. `in_order` gives
none for that: item i of the output has to be gold string i.
"""

import re
from collections.abc import Callable, Sequence

Score = Callable[[str, Sequence[str]], float]

_UNPRINTABLE = re.compile(r"[\x00-\x1f]")
_BETWEEN_ITEMS = re.compile(r"[\s,;.]+")


def contained(output: str, gold: Sequence[str]) -> float:
    """Returns the share of gold strings that the output contains, as RULER computes it."""
    text = _UNPRINTABLE.sub("\n", output.strip()).strip().lower()
    return sum(string.lower() in text for string in gold) / len(gold)


def in_order(output: str, gold: Sequence[str]) -> float:
    """Returns the share of gold strings that are at their place among the items of the output."""
    items = [item for item in _BETWEEN_ITEMS.split(output.lower()) if item]
    return sum(item == string.lower() for item, string in zip(items, gold, strict=False)) / len(gold)
