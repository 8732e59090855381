"""Samples that fill a length: the largest for which the prompt and its answer have at most so many tokens.

A sample is a function of the settings, the task, the length and its index: models are compared on the same samples, and
more samples leave the first ones as they are. The size is found once, by bisection as in RULER; a sample that is too
long with it is made smaller by a fiftieth at a time (RULER's steps are coarser).
"""

import functools
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from evaluate.config import MIN_COLUMNS, ProbeConfig
from evaluate.tasks.task import Sample, Task
from evaluate.too_long import Smallest, TooLongError

NUM_TRIED = 8  # samples of which the longest says what a task takes
MAX_ROUNDS = 8  # some tasks take more as the length grows


@dataclass(frozen=True)
class Fitted:
    """A sample in tokens."""

    sample: Sample
    prompt: list[int]
    answer: list[int]
    max_new_tokens: int
    """Left behind the prompt: never fewer than an answer has."""
    size: int
    wrong_answers: list[list[int]] = field(default_factory=list)

    @property
    def num_tokens(self) -> int:
        """How many tokens the prompt takes, with what is left for the answer."""
        return len(self.prompt) + self.max_new_tokens


class Samples:
    """The samples of a task at a length."""

    def __init__(
        self, name: str, task: Task, length: int, config: ProbeConfig, encode: Callable[[str], list[int]]
    ) -> None:
        self._name, self._length, self._config, self._encode = name, length, config, encode
        self._any_length, self._task = task, task.at_length(length)
        self._max_new_tokens = config.max_new_tokens or (task.max_new_tokens if config.generate else 1)

    def check(self) -> None:
        """Raises TooLongError if the smallest sample is too long: that of no index, or one of the first ones."""
        for index in self._tried():
            self._check(index)

    def _check(self, index: str) -> None:
        """Raises TooLongError if the smallest sample of an index is too long."""
        if self._fitted(self._task.smallest, index).num_tokens > self._length:
            raise TooLongError(self._smallest_at(index))

    def __getitem__(self, index: int) -> Fitted:
        """Returns a sample. Raises TooLongError if the smallest one is too long."""
        size = self._size
        while (fitted := self._fitted(size, str(index))).num_tokens > self._length:
            if size == self._task.smallest:
                raise TooLongError(self._smallest_at(str(index)))
            size = max(self._task.smallest, size - max(1, size // 50))
        return fitted

    @functools.cached_property
    def _size(self) -> int:
        """The largest size for which one sample, of no index, has at most the length."""
        task = self._task
        self._check("size")
        fits, too_large = task.smallest, None if task.largest is None else task.largest + 1
        while too_large is None or too_large - fits > 1:
            size = 2 * fits if too_large is None else min(2 * fits, (fits + too_large) // 2)
            if self._fitted(size, "size").num_tokens <= self._length:
                fits = size
            else:
                too_large = size
        return fits

    def _fitted(self, size: int, index: str) -> Fitted:
        draw = random.Random(f"{self._config.seed}/{self._name}/{self._length}/{index}")
        sample = self._task.sample(draw, size)
        prompt, answer = self._encode(sample.prompt), self._encode(sample.answer)
        wrong_answers = [self._encode(each) for each in sample.wrong_answers]
        longest = max(len(each) for each in (answer, *wrong_answers))
        return Fitted(sample, prompt, answer, max(self._max_new_tokens, longest), size, wrong_answers)

    def _tried(self) -> list[str]:
        """Returns the indices of the samples that are tried before any other."""
        return ["size", *map(str, range(min(self._config.num_samples, NUM_TRIED)))]

    def _smallest_at(self, index: str) -> Smallest:
        """Returns what the smallest samples take: that of this index, and those of the first ones."""
        indices = list(dict.fromkeys([*self._tried(), index]))
        prompt, answer = self._smallest(indices)
        generated = max(self._max_new_tokens, answer)
        settings = tuple(name for name in self._task.settings if getattr(self._config, name) > _lowest(name))
        enough = self._enough(prompt + generated, indices)
        return Smallest(self._name, self._length, prompt, answer, generated, enough, settings)

    def _enough(self, length: int, indices: Iterable[str]) -> int | None:
        """Returns a length, this one or more, that the smallest samples fit; None if it is not found."""
        for _ in range(MAX_ROUNDS):
            longer = Samples(self._name, self._any_length, length, self._config, self._encode)
            prompt, answer = longer._smallest(indices)
            taken = prompt + max(self._max_new_tokens, answer)
            if taken <= length:
                return length
            length = taken
        return None

    def _smallest(self, indices: Iterable[str]) -> tuple[int, int]:
        """Returns the tokens of the longest prompt and of the longest answer among the smallest samples."""
        fitted = [self._fitted(self._task.smallest, index) for index in indices]
        answers = [len(answer) for each in fitted for answer in (each.answer, *each.wrong_answers)]
        return max(len(each.prompt) for each in fitted), max(answers)


def _lowest(setting: str) -> int:
    return MIN_COLUMNS if setting == "num_columns" else 1
