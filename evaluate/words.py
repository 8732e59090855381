"""What tasks are made of: words, numbers, identifiers and letters. RULER's word lists, of the `wonderwords` package."""

import functools
import random
import string
import uuid
from collections.abc import Callable
from importlib import resources

from evaluate.errors import EvaluateError

MAX_SHARE_DRAWN = 2  # at most one in two of all that can be drawn is: drawing what is new then takes few tries


@functools.cache
def word_list(kind: str) -> tuple[str, ...]:
    """Returns the words of a kind, `noun`, `adjective` or `verb`, sorted."""
    text = (resources.files("wonderwords") / "assets" / f"{kind}list.txt").read_text()
    return tuple(sorted({line.strip() for line in text.splitlines()} - {""}))


class Vocabulary:
    """The words that a task draws from: of each list the first `num_words` of a fixed shuffle, or all."""

    def __init__(self, num_words: int | None) -> None:
        self.nouns, self.adjectives, self.verbs = (
            _shortened(word_list(kind), num_words) for kind in ("noun", "adjective", "verb")
        )
        self.all = sorted({*self.nouns, *self.adjectives, *self.verbs})

    @property
    def num_keys(self) -> int:
        """How many different keys there are."""
        return len(self.nouns) * len(self.adjectives)

    def key(self, draw: random.Random) -> str:
        """Returns an adjective and a noun, as RULER's keys are."""
        return f"{draw.choice(self.adjectives)}-{draw.choice(self.nouns)}"


@functools.cache
def vocabulary(num_words: int | None) -> Vocabulary:
    """Returns the vocabulary of a setting `num_words`, made once."""
    return Vocabulary(num_words)


def number(draw: random.Random, num_digits: int) -> str:
    """Returns a number of so many digits, without a leading zero."""
    return str(draw.randrange(10 ** (num_digits - 1), 10**num_digits))


def identifier(draw: random.Random) -> str:
    """Returns a random UUID."""
    return str(uuid.UUID(int=draw.getrandbits(128), version=4))


def letters(draw: random.Random, alphabet: str, length: int) -> str:
    """Returns random letters."""
    return "".join(draw.choices(alphabet, k=length))


def name(draw: random.Random) -> str:
    """Returns an invented name, such as Balomi: three syllables of two letters, so that no name is within another."""
    return "".join(draw.choice(CONSONANTS) + draw.choice(VOWELS) for _ in range(NAME_SYLLABLES)).capitalize()


def different(make: Callable[[], str], count: int, num_possible: int, setting: str, taken: set[str]) -> list[str]:
    """Returns `count` different results of `make`, none of `taken`, to which they are added.

    Raises EvaluateError, which names the setting, if too few are possible.
    """
    if (len(taken) + count) * MAX_SHARE_DRAWN > num_possible:
        raise EvaluateError(
            f"{setting} is too small: {len(taken) + count} different ones are needed, and at most one in "
            f"{MAX_SHARE_DRAWN} of the {num_possible} that there are is drawn; give a larger {setting}"
        )
    found: list[str] = []
    while len(found) < count:
        new = make()
        if new not in taken:
            taken.add(new)
            found.append(new)
    return found


def num_numbers(num_digits: int) -> int:
    """Returns how many numbers of so many digits there are."""
    return 9 * 10 ** (num_digits - 1)


def num_strings(alphabet: str, length: int) -> int:
    """Returns how many strings of so many letters there are."""
    return len(alphabet) ** length


UPPER, LOWER = string.ascii_uppercase, string.ascii_lowercase
CONSONANTS, VOWELS = "bdfghjklmnprstvz", "aeiou"
NAME_SYLLABLES = 3
NUM_NAMES = (len(CONSONANTS) * len(VOWELS)) ** NAME_SYLLABLES


def _shortened(words: tuple[str, ...], num_words: int | None) -> list[str]:
    shuffled = list(words)
    random.Random(0).shuffle(shuffled)
    return shuffled[:num_words]
