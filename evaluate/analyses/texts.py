"""The texts that positions are read of: tokens in a row of a long text, from a random word on."""

import random
from dataclasses import dataclass, field

from evaluate.errors import EvaluateError
from evaluate.haystack import open_haystack
from evaluate.subject import ModelSubject
from model.position_statistics import CHUNK


@dataclass
class TextsConfig:
    """Which texts, how many and how long."""

    texts: str | None = None
    """A text file, in UTF-8; Python's language reference if there is none."""
    num_texts: int = 20
    """Texts; each has every length, the shorter ones being its beginning."""
    length: list[int] = field(default_factory=list)
    """Tokens of a text; none stands for a quarter, a half and all of the length that the model was trained at."""
    yarn: dict[int, float] = field(default_factory=dict)
    """YaRN's factor by length; none at the other lengths."""
    seed: int = 42
    """Of the texts, and of what is drawn at random."""

    def lengths(self, trained: int) -> list[int]:
        """Returns the lengths, in order. Raises EvaluateError for values out of range."""
        if self.num_texts < 1:
            raise EvaluateError(f"num_texts={self.num_texts} must be 1 or more")
        if short := [length for length in self.length if length < CHUNK]:
            raise EvaluateError(f"length={short[0]} must be {CHUNK} or more, the tokens of a chunk")
        if stray := [length for length in self.yarn if self.length and length not in self.length]:
            raise EvaluateError(f"yarn has a factor for length {stray[0]}, which is none of length={self.length}")
        return sorted(set(self.length)) or [max(CHUNK, trained // part) for part in (4, 2, 1)]

    def settings(self) -> dict[str, object]:
        """Returns what the rows depend on, the model left out. Raises EvaluateError and OSError."""
        yarn = {str(length): factor for length, factor in self.yarn.items()}  # as JSON has it
        return {"texts": open_haystack(self.texts).digest, "seed": self.seed, "yarn": yarn}

    def tokens(self, index: int, length: int, subject: ModelSubject) -> list[int]:
        """Returns the tokens of a text; the file begins again at its end."""
        words = open_haystack(self.texts).words
        start, count = random.Random(f"{self.seed}/texts/{index}").randrange(len(words)), length
        repeated = words * (2 + count // len(words))
        tokens = subject.encode(" ".join(repeated[start : start + count]))
        return tokens[:length]  # a word has one token at least
