"""Numbers with their nouns."""

import pytest

from common.words import counted


@pytest.mark.parametrize(
    ("number", "noun", "said"),
    [(1, "rank", "1 rank"), (8, "rank", "8 ranks"), (0, "step", "0 steps"), (128, "micro-batch", "128 micro-batches")],
)
def test_a_noun_has_the_plural_of_its_number(number: int, noun: str, said: str) -> None:
    assert counted(number, noun) == said
