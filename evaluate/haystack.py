"""A long text: Python's language reference, which every installation has, or a file. It is prose to hide needles in.

RULER takes Paul Graham's essays, which have no licence to be shipped: results with another text are another test. A
text file of them can be given.
"""

import functools
import hashlib
import random
import re
from dataclasses import dataclass
from pathlib import Path
from pydoc_data.topics import topics

from evaluate.errors import EvaluateError

_MIN_WORDS = 1000
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
_WORD_AND_SPACE = re.compile(r"\S+\s+")
_PROSE = re.compile(r"[A-Z][\w\s,.;:()'\"-]+[.!?]")  # a paragraph without markup or code


@dataclass(frozen=True)
class Haystack:
    """A text and its words."""

    text: str
    """As it stands, with its white space."""

    @functools.cached_property
    def words(self) -> tuple[str, ...]:
        """The words, in order."""
        return tuple(self.text.split())

    @property
    def digest(self) -> str:
        """What tells the words of one text from those of another."""
        return _digest(" ".join(self.words))

    @property
    def text_digest(self) -> str:
        """What tells one text from another, white space included."""
        return _digest(self.text)

    def passage(self, start: int, num_words: int) -> str:
        """Returns the text of so many words in a row from word `start` on; the text begins again at its end."""
        pieces = _WORD_AND_SPACE.findall(f"{self.text} ")
        return "".join((pieces * (1 + (start + num_words) // len(pieces)))[start : start + num_words]).rstrip()

    def sentences(self, draw: random.Random, num_words: int) -> list[str]:
        """Returns the sentences of so many words in a row from a random one on; the text begins again at its end."""
        start = draw.randrange(len(self.words))
        repeats = 1 + (start + num_words) // len(self.words)
        return _SENTENCE_END.split(" ".join((self.words * repeats)[start : start + num_words]))


@functools.cache
def open_haystack(path: str | None) -> Haystack:
    """Returns the text of a file, or of the language reference. Raises EvaluateError."""
    if path is None:
        paragraphs = [part.strip() for _, text in sorted(topics.items()) for part in text.split("\n\n")]
        return Haystack(" ".join(" ".join(part for part in paragraphs if _PROSE.fullmatch(part)).split()))
    try:
        haystack = Haystack(Path(path).read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise EvaluateError(f"haystack={path} is no text in UTF-8 ({error.reason}): give a text file") from error
    except OSError as error:
        raise EvaluateError(f"haystack={path}: {error.strerror or error}: give a text file") from error
    if len(haystack.words) < _MIN_WORDS:
        raise EvaluateError(f"haystack={path} has {len(haystack.words)} words: give a text of {_MIN_WORDS} or more")
    return haystack


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
