"""The settings of `python -m evaluate perplexity SOURCE ... key=value ...`."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from evaluate.config import parse_settings
from evaluate.errors import EvaluateError


@dataclass
class PerplexityConfig:
    """Which documents are read, at which lengths, with which YaRN."""

    length: list[int] = field(default_factory=list)
    """Tokens of a document that are read; none stands for 1, 2 and 4 times the length of training."""
    yarn: dict[int, float] = field(default_factory=dict)
    """YaRN's factor by length, as in yarn=8192:2; without it, length / length of training where that is above 1."""
    documents: str | None = None
    """A file or a folder of text; without it, what the first source's run holds out, else Python's own texts."""
    text_key: str = "text"
    """The field of `documents` that holds the text, in JSON lines and tables."""
    num_documents: int = 100
    """Most documents at each length."""
    pack: bool = False
    """Whether short documents of a source are put one after the other, with EOS between them."""
    same_documents: bool = False
    """Whether only documents that are long enough for every length are read."""

    def validate(self) -> None:
        """Raises EvaluateError for a value out of range."""
        if self.num_documents < 1:
            raise EvaluateError(f"num_documents={self.num_documents} must be 1 or more")
        if any(length < 2 for length in self.length):
            raise EvaluateError(f"length={self.length}: each must be 2 or more")
        if len(set(self.length)) < len(self.length):
            raise EvaluateError(f"length={self.length} names one twice")
        stray = [length for length in self.yarn if self.length and length not in self.length]
        if stray:
            raise EvaluateError(f"yarn has a factor for length {stray[0]}, which is none of length={self.length}")
        if any(factor < 1 for factor in self.yarn.values()):
            raise EvaluateError(f"yarn={self.yarn}: factors must be 1 or more")

    def factor(self, length: int, trained_length: int) -> float | None:
        """Returns the factor of YaRN at a length, or None where none is asked for."""
        if self.yarn:
            return self.yarn.get(length)
        return length / trained_length if length > trained_length else None


def parse_config(assignments: Sequence[str]) -> PerplexityConfig:
    """Returns the config with `key=value` changes. Raises EvaluateError."""
    config = parse_settings(PerplexityConfig, assignments)
    config.validate()
    return config
