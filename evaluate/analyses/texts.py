"""The texts that positions are read of: tokens in a row of a long text, from a random word on."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from evaluate.config import check_yarn
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
    """Tokens of a text; none stands for the length of training, and for patterns a quarter and a half of it, too."""
    yarn: dict[int, float] = field(default_factory=dict)
    """YaRN's factor by length; none at the other lengths."""
    seed: int = 42
    """Of the texts, and of what is drawn at random."""

    def lengths(self, trained: int, parts: Sequence[int]) -> list[int]:
        """Returns the lengths, in order; without any, `trained` divided by each of `parts`.

        Raises EvaluateError for values out of range.
        """
        if self.num_texts < 1:
            raise EvaluateError(f"num_texts={self.num_texts} must be 1 or more")
        if short := [length for length in self.length if length < CHUNK]:
            raise EvaluateError(f"length={short[0]} must be {CHUNK} or more, the tokens of a chunk")
        lengths = sorted(set(self.length)) or [max(CHUNK, trained // part) for part in parts]
        check_yarn(self.yarn, lengths)
        return lengths

    def settings(self) -> dict[str, object]:
        """Returns what the rows depend on, the model left out. Raises EvaluateError and OSError."""
        yarn = {str(length): factor for length, factor in self.yarn.items()}  # as JSON has it
        return {"texts": open_haystack(self.texts).text_digest, "seed": self.seed, "yarn": yarn}

    def tokens(self, index: int, length: int, subject: ModelSubject) -> list[int]:
        """Returns the tokens of a text; the file begins again at its end. Raises EvaluateError if there are too few."""
        haystack = open_haystack(self.texts)
        start = random.Random(f"{self.seed}/texts/{index}").randrange(len(haystack.words))
        tokens = subject.encode(haystack.passage(start, length))
        if len(tokens) < length:  # a word has one token at least, unless the tokenizer leaves it out
            raise EvaluateError(
                f"{length} words have only {len(tokens)} tokens: give another --tokenizer or texts=FILE"
            )
        return tokens[:length]
