"""Samples that fill a length: the largest for which the prompt and its answer have at most so many tokens.

A sample is a function of the settings, the task, the length and its index: models are compared on the same samples, and
more samples leave the first ones as they are. The size is found once, by bisection as in RULER; a sample that is too
long with it is made smaller by a fiftieth at a time (RULER's steps are coarser).
"""

import functools
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from evaluate.config import ProbeConfig
from evaluate.errors import EvaluateError
from evaluate.tasks.task import Sample, Task


@dataclass(frozen=True)
class Fitted:
    """A sample in tokens."""

    sample: Sample
    prompt: list[int]
    answer: list[int]
    max_new_tokens: int
    """To generate: never fewer than an answer has."""
    size: int
    wrong_answers: list[list[int]] = field(default_factory=list)

    @property
    def num_tokens(self) -> int:
        """How many tokens the prompt and all that is generated take."""
        return len(self.prompt) + self.max_new_tokens


class Samples:
    """The samples of a task at a length."""

    def __init__(
        self, name: str, task: Task, length: int, config: ProbeConfig, encode: Callable[[str], list[int]]
    ) -> None:
        self._name, self._length, self._encode = name, length, encode
        self._task = task.at_length(length)
        self._seed = config.seed
        self._max_new_tokens = config.max_new_tokens or task.max_new_tokens

    def check(self) -> None:
        """Raises EvaluateError if the smallest sample is too long."""
        smallest = self._fitted(self._task.smallest, "size")
        if smallest.num_tokens > self._length:
            raise self._too_long(smallest)

    def __getitem__(self, index: int) -> Fitted:
        """Returns a sample. Raises EvaluateError if the smallest one is too long."""
        size = self._size
        while (fitted := self._fitted(size, str(index))).num_tokens > self._length:
            if size == self._task.smallest:
                raise self._too_long(fitted)
            size = max(self._task.smallest, size - max(1, size // 50))
        return fitted

    @functools.cached_property
    def _size(self) -> int:
        """The largest size for which one sample, of no index, has at most the length."""
        task = self._task
        self.check()
        fits, too_large = task.smallest, None if task.largest is None else task.largest + 1
        while too_large is None or too_large - fits > 1:
            size = 2 * fits if too_large is None else min(2 * fits, (fits + too_large) // 2)
            if self._fitted(size, "size").num_tokens <= self._length:
                fits = size
            else:
                too_large = size
        return fits

    def _fitted(self, size: int, index: str) -> Fitted:
        draw = random.Random(f"{self._seed}/{self._name}/{self._length}/{index}")
        sample = self._task.sample(draw, size)
        prompt, answer = self._encode(sample.prompt), self._encode(sample.answer)
        wrong_answers = [self._encode(each) for each in sample.wrong_answers]
        longest = max(len(each) for each in (answer, *wrong_answers))
        return Fitted(sample, prompt, answer, max(self._max_new_tokens, longest), size, wrong_answers)

    def _too_long(self, fitted: Fitted) -> EvaluateError:
        return EvaluateError(
            f"length={self._length}: {self._name} takes {fitted.num_tokens} tokens at least, of which the answer has "
            f"{fitted.max_new_tokens}; give a longer length, a smaller max_new_tokens, or other tasks (task=...)"
        )
