"""Copying and reversing a list, after one solved example: what tells position schemes apart in small models.

Text reversal is the paper's synthetic task (arXiv 2512.14391, appendix C). Size: items of the list.
"""

import random

from evaluate.config import Items, ProbeConfig
from evaluate.scoring import in_order
from evaluate.tasks.task import Sample, Task
from evaluate.words import LOWER, number, vocabulary

EXAMPLE_ITEMS = 4


class Lists(Task):
    """Lists with the same items, in the same order or from the last to the first."""

    score = staticmethod(in_order)
    max_new_tokens = 1

    def __init__(self, config: ProbeConfig, *, is_reversed: bool) -> None:
        self._config, self._is_reversed = config, is_reversed
        self._words = [word for word in vocabulary(config.num_words).all if word.isalpha()]
        self.smallest, self.largest = 2, max(2, config.max_items)
        self.settings = ("value_digits",) if config.items is Items.numbers else ()

    def sample(self, draw: random.Random, size: int) -> Sample:
        """Returns the example and the list."""
        example, solved = self._question(draw, EXAMPLE_ITEMS)
        question, items = self._question(draw, size)
        return Sample(f"{example} {' '.join(solved)}\n{question}", tuple(items), f" {' '.join(items)}")

    def _question(self, draw: random.Random, size: int) -> tuple[str, list[str]]:
        items = [self._item(draw) for _ in range(size)]
        answer = items[::-1] if self._is_reversed else items
        return f"List: {' '.join(items)}\n{'Reversed' if self._is_reversed else 'Copy'}:", answer

    def _item(self, draw: random.Random) -> str:
        match self._config.items:
            case Items.letters:
                return draw.choice(LOWER)
            case Items.numbers:
                return number(draw, self._config.value_digits)
            case Items.words:
                return draw.choice(self._words)


def build(config: ProbeConfig) -> dict[str, Task]:
    """Returns the tasks of this file by name."""
    return {"copy": Lists(config, is_reversed=False), "reverse": Lists(config, is_reversed=True)}
