"""RULER's frequent words extraction (fwe): coded words whose counts fall with their rank as in a zeta distribution.

As in NVIDIA/RULER freq_words_extraction.py: the word of rank k appears n k^-2 / zeta(2) times, rounded down; rank 1 is
`...`; asked for are ranks 2 to 4; one word of vocabulary per 50 tokens. Differences: a fresh order in each sample; at
least enough words that the three are the most frequent. Size: n, which counts the words before rounding.
"""

import itertools
import math
import random

from evaluate.config import ProbeConfig
from evaluate.scoring import contained
from evaluate.tasks.task import Sample, Task
from evaluate.words import LOWER, different, letters, num_strings

TEMPLATE = (
    "Read the following coded text and track the frequency of each coded word. Find the three most frequently appeared "
    "coded words. {context}\nQuestion: Do not provide any explanation. Please ignore the dots '....'. What are the "
    "three most frequently appeared words in the above coded text? Answer: According to the coded text above, the "
    "three most frequently appeared words are:"
)
ZETA_2 = math.pi**2 / 6
NUM_ASKED = 3
TOKENS_PER_WORD = 50  # of the length, for each word of the vocabulary
NOISE = "..."


class FrequentWords(Task):
    """The three most frequent coded words."""

    score = staticmethod(contained)
    max_new_tokens = 50
    settings = ("coded_letters",)

    def __init__(self, config: ProbeConfig, num_words: int = NUM_ASKED + 2) -> None:
        self._config, self._letters = config, config.coded_letters
        self._num_words = max(NUM_ASKED + 2, num_words)
        self.smallest = next(size for size in range(1, 1000) if _is_ranked(size))

    def at_length(self, length: int) -> Task:
        """Returns the task with the vocabulary of this length."""
        return FrequentWords(self._config, (length - self.max_new_tokens) // TOKENS_PER_WORD)

    def sample(self, draw: random.Random, size: int) -> Sample:
        """Returns a coded text and the question."""
        possible = num_strings(LOWER, self._letters)
        words = different(
            lambda: letters(draw, LOWER, self._letters), self._num_words - 1, possible, "coded_letters", set()
        )
        text = [word for rank, word in enumerate([NOISE, *words], 1) for _ in range(_count(size, rank))]
        draw.shuffle(text)
        return Sample(
            TEMPLATE.format(context=" ".join(text)), tuple(words[:NUM_ASKED]), f" {' '.join(words[:NUM_ASKED])}"
        )


def _count(size: int, rank: int) -> int:
    return int(size * rank**-2 / ZETA_2)


def _is_ranked(size: int) -> bool:
    """Returns whether each word that is asked for is more frequent than the next."""
    counts = [_count(size, rank) for rank in range(2, NUM_ASKED + 3)]
    return all(more > fewer for more, fewer in itertools.pairwise(counts))


def build(config: ProbeConfig) -> dict[str, Task]:
    """Returns the tasks of this file by name."""
    return {"fwe": FrequentWords(config)}
