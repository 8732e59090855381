"""RULER's common words extraction (cwe): a numbered list of words, in which some appear more often than others.

As in NVIDIA/RULER common_words_extraction.py, with one solved example: common words appear 30 times and the others 3
times, 6 times and once at lengths below 4,096. Differences: the list comes in a fresh order in each sample; where all
of RULER's words are used up (beyond about 64K tokens) prompts stay shorter. Size: different words.
"""

import random

from evaluate.config import ProbeConfig
from evaluate.scoring import contained
from evaluate.tasks.task import Sample, Task
from evaluate.words import vocabulary

TEMPLATE = (
    "Below is a numbered list of words. In these words, some appear more often than others. Memorize the ones that "
    "appear most often.\n{context}\nQuestion: What are the {count} most common words in the above list? Answer: The "
    "top {count} words that appear most often in the list are:"
)
LONG = 4096  # tokens from which the larger counts are used
Counts = tuple[int, int]  # of a common word, and of another one


class CommonWords(Task):
    """The most common words of a list."""

    score = staticmethod(contained)
    max_new_tokens = 120
    settings = ("num_common",)

    def __init__(self, config: ProbeConfig, is_long: bool = True) -> None:
        self._config, self._vocabulary = config, vocabulary(config.num_words)
        self._counts, self._example_counts = ((30, 3), (10, 3)) if is_long else ((6, 1), (3, 1))
        self._example_words = config.num_common * (4 if is_long else 2)
        self.smallest = config.num_common + 1
        self.largest = max(self.smallest, len(self._vocabulary.all))

    def at_length(self, length: int) -> Task:
        """Returns the task with RULER's counts for this length."""
        return CommonWords(self._config, length >= LONG)

    def sample(self, draw: random.Random, size: int) -> Sample:
        """Returns the example and the question."""
        example, solved = self._question(draw, self._example_words, self._example_counts)
        question, common = self._question(draw, size, self._counts)
        return Sample(f"{example}{_numbered(solved)}\n{question}", tuple(common), _numbered(common))

    def _question(self, draw: random.Random, num_words: int, counts: Counts) -> tuple[str, list[str]]:
        words = draw.sample(self._vocabulary.all, min(num_words, len(self._vocabulary.all)))
        common, others = words[: self._config.num_common], words[self._config.num_common :]
        listed = common * counts[0] + others * counts[1]
        draw.shuffle(listed)
        return TEMPLATE.format(context=_numbered(listed).strip(), count=self._config.num_common), common


def _numbered(words: list[str]) -> str:
    return "".join(f" {place}. {word}" for place, word in enumerate(words, 1))


def build(config: ProbeConfig) -> dict[str, Task]:
    """Returns the tasks of this file by name. Raises EvaluateError if there are too few words."""
    task = CommonWords(config)
    return {"cwe": task}
