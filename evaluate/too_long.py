"""What the smallest samples of a task take where they are longer than the length, and what would make them fit."""

from collections.abc import Sequence
from dataclasses import dataclass

from evaluate.errors import EvaluateError


@dataclass(frozen=True)
class Smallest:
    """The tokens of a task's smallest samples, at a length that is too short for them."""

    task: str
    length: int
    prompt: int
    """Of the longest prompt among them."""
    answer: int
    """Of the longest answer, right or wrong."""
    generated: int
    """Left for what is generated: as many as the answer, or more."""
    enough: int | None
    """A length that they fit; None if none is known."""
    settings: tuple[str, ...]
    """Settings that shrink them and can be lowered."""

    @property
    def taken(self) -> int:
        """The tokens of a prompt with what is left behind it."""
        return self.prompt + self.generated

    @property
    def is_for_generation(self) -> bool:
        """Whether they fit with fewer tokens to generate."""
        return self.prompt + self.answer <= self.length

    def said(self) -> str:
        """Returns how many tokens they take, for what, and what to change, in a line."""
        if self.generated > self.answer:
            behind = f"{self.generated} left for what is generated (the right answer takes {self.answer})"
        else:
            behind = f"the right answer {self.answer}"
        ways = [f"length={self.enough} or more" if self.enough else "a longer length"]
        if self.is_for_generation:
            ways.append(f"max_new_tokens={self.length - self.prompt} or less")
        if self.settings:
            ways.append(f"a smaller {' or '.join(self.settings)}")
        return (
            f"length={self.length}: {self.task} takes {self.taken} tokens at least, its smallest prompt {self.prompt} "
            f"and {behind}; give {', '.join(ways)}, or other tasks (task=...)"
        )


class TooLongError(EvaluateError):
    """The smallest samples of a task are longer than the length."""

    def __init__(self, smallest: Smallest) -> None:
        super().__init__(smallest.said())
        self.smallest = smallest


def said_together(smallest: Sequence[Smallest]) -> list[str]:
    """Returns what `Smallest.said` does, in a line for each length and reason."""
    found = []
    for length in dict.fromkeys(each.length for each in smallest):
        own = [each for each in smallest if each.length == length]
        if few := [each for each in own if each.is_for_generation]:
            budget = min(length - each.prompt for each in few)
            found.append(
                f"at length={length}, for what is left to generate an answer (tokens taken): {_listed(few)}; "
                f"max_new_tokens={budget} or less makes all of them fit"
            )
        if long := [each for each in own if not each.is_for_generation]:
            lengths = [each.enough for each in long]
            ways = "a longer length" if None in lengths else f"length={max(filter(None, lengths))} fits all of them"
            settings = dict.fromkeys(setting for each in long for setting in each.settings)
            ways += f"; smaller values of {', '.join(settings)} shrink some" if settings else ""
            found.append(f"at length={length}, for prompts with their answers (tokens taken): {_listed(long)}; {ways}")
    return found


def _listed(smallest: Sequence[Smallest]) -> str:
    return ", ".join(f"{each.task} ({each.taken})" for each in smallest)
