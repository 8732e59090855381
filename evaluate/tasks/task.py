"""What a task is: samples of any size from a seeded generator, and a score of what a model answers."""

import random
from abc import ABC, abstractmethod
from dataclasses import dataclass

from evaluate.scoring import Score


@dataclass(frozen=True)
class Sample:
    """One question."""

    prompt: str
    """What the model continues."""
    gold: tuple[str, ...]
    """What the score looks for: the strings that a right answer holds, in order, or several right answers."""
    answer: str
    """The right continuation of the prompt, for the log-likelihood."""
    wrong_answers: tuple[str, ...] = ()
    """The continuations that the right one is chosen from, by log-likelihood; none where there is nothing to choose."""


class Task(ABC):
    """A kind of question. Its *size* is a number, such as of sentences, with which prompts grow."""

    score: Score
    """Returns the score of an output by the gold strings, 0 to 1."""
    max_new_tokens: int
    """Tokens to generate; the answer's own number of tokens where that is larger."""
    smallest: int = 1
    """The smallest size."""
    largest: int | None = None
    """The largest size, or None for any."""
    settings: tuple[str, ...] = ()
    """Numbers of the config that make a sample of the same size shorter where they are lower."""

    @abstractmethod
    def sample(self, draw: random.Random, size: int) -> Sample:
        """Returns a sample of this size; all that is random in it comes from `draw`. Raises EvaluateError."""

    def at_length(self, length: int) -> "Task":
        """Returns the task for samples of at most `length` tokens: some are made differently then."""
        del length
        return self
