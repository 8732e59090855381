"""Scores of generated text, each from 0 to 1.

`contained` is RULER's string_match_all: the share of the gold strings that the output contains, in lower case, wherever
they are and whatever else is there. A model that lists every number of its context gets full marks. `any_contained` is
its string_match_part, where one of the gold strings is enough, and `in_first_line` is what the RePo paper calls exact
match on tables. `in_order` gives nothing for such a list: item i of the output has to be gold string i. `yes_or_no` and
`path` read one answer from the output, the first.
"""

import re
import string
from collections.abc import Callable, Sequence

Score = Callable[[str, Sequence[str]], float]

_UNPRINTABLE = re.compile(r"[\x00-\x1f]")
_BETWEEN_ITEMS = re.compile(r"[\s,;.]+")
_ARTICLE = re.compile(r"\b(a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
_YES_OR_NO = re.compile(r"\b(yes|no)\b")


def contained(output: str, gold: Sequence[str]) -> float:
    """Returns the share of gold strings that the output contains, as RULER computes it."""
    return sum(_found(output, gold)) / len(gold)


def any_contained(output: str, gold: Sequence[str]) -> float:
    """Returns 1 if the output contains one of the gold strings, as RULER scores questions over documents."""
    return float(any(_found(output, gold)))


def in_first_line(output: str, gold: Sequence[str]) -> float:
    """Returns 1 if the first line of the output contains one of the gold strings, both as SQuAD normalises them."""
    text = normalised(output.partition("\n")[0])
    return float(any(normalised(each) in text for each in gold))


def normalised(text: str) -> str:
    """Returns a text in lower case, without punctuation and articles, with single spaces, as SQuAD's scorer does."""
    return " ".join(_ARTICLE.sub(" ", text.lower().translate(_NO_PUNCTUATION)).split())


def in_order(output: str, gold: Sequence[str]) -> float:
    """Returns the share of gold strings that are at their place among the items of the output."""
    items = [item for item in _BETWEEN_ITEMS.split(output.lower()) if item]
    return sum(item == each.lower() for item, each in zip(items, gold, strict=False)) / len(gold)


def yes_or_no(output: str, gold: Sequence[str]) -> float:
    """Returns 1 if the first yes or no of the output is the gold string. An output with neither is wrong."""
    said = _YES_OR_NO.search(output.lower())
    return float(said is not None and said[1] == gold[0].lower())


def path(output: str, gold: Sequence[str]) -> float:
    """Returns 1 if the numbers of the first line, up to the end of all gold paths, are one of them.

    A path is `0,3,7`; numbers may be apart in any other way.
    """
    nodes = re.findall(r"\d+", output.strip().partition("\n")[0])
    end = gold[0].rpartition(",")[2]
    if end not in nodes:
        return 0.0
    return float(",".join(nodes[: nodes.index(end) + 1]) in gold)


def _found(output: str, gold: Sequence[str]) -> list[bool]:
    text = _UNPRINTABLE.sub("\n", output.strip()).strip().lower()
    return [each.lower() in text for each in gold]
