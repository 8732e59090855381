"""Key-value recall: lines of words and numbers, and the number of one word. Size: pairs."""

import random

from evaluate.config import ProbeConfig
from evaluate.scoring import in_order
from evaluate.tasks.task import Sample, Task
from evaluate.words import MAX_SHARE_DRAWN, different, num_numbers, number, vocabulary

SMALLEST = 2


class KeyValue(Task):
    """Pairs, each key with a value of its own."""

    score = staticmethod(in_order)
    max_new_tokens = 1
    settings = ("value_digits",)

    def __init__(self, config: ProbeConfig) -> None:
        self._digits = config.value_digits
        self._words = [word for word in vocabulary(config.num_words).all if word.isalpha()]
        most = min(len(self._words), num_numbers(self._digits) // MAX_SHARE_DRAWN)
        self.smallest, self.largest = SMALLEST, max(SMALLEST, most)

    def sample(self, draw: random.Random, size: int) -> Sample:
        """Returns the pairs, and the first half of one again."""
        keys = draw.sample(self._words, size)
        values = different(lambda: number(draw, self._digits), size, num_numbers(self._digits), "value_digits", set())
        asked = draw.randrange(size)
        lines = [f"{key}: {value}" for key, value in zip(keys, values, strict=True)]
        return Sample("\n".join([*lines, "", f"{keys[asked]}:"]), (values[asked],), f" {values[asked]}")


def build(config: ProbeConfig) -> dict[str, Task]:
    """Returns the tasks of this file by name."""
    return {"key_value": KeyValue(config)}
