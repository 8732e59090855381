"""RULER's needle tasks (arXiv 2404.06654, NVIDIA/RULER niah.py): values in a long text, asked for by their keys.

The same templates, needles, haystacks, number of needles and score as there. Differences: needles come in a fresh order
in each sample (there one seed gives all samples the same), prose begins at a random word and is not Paul Graham's, and
sentences are cut after `.`, `!` and `?`. Size: repetitions of the noise, other needles, or words of prose.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from evaluate.config import MAX_NEEDLES, ProbeConfig
from evaluate.haystack import open_haystack
from evaluate.scoring import contained
from evaluate.tasks.task import Sample, Task
from evaluate.words import MAX_SHARE_DRAWN, different, identifier, num_numbers, number, vocabulary

NEEDLE = "One of the special magic {kind} for {key} is: {value}."
NOISE = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again."
TEMPLATE = (
    "Some special magic {kind} are hidden within the following text. Make sure to memorize it. I will quiz you about "
    "the {kind} afterwards.\n{context}\nWhat are all the special magic {kind} for {query} mentioned in the provided "
    "text? The special magic {kind} for {query} mentioned in the provided text are"
)
SINGULAR = {"Some": "A", "are all": "is", "are": "is"}  # replaced in this order where one value is asked for
DEPTHS = [
    round(100 * step / (MAX_NEEDLES - 1)) for step in range(MAX_NEEDLES)
]  # percent of the sentences before a needle in prose
NUM_IDENTIFIERS = 2**122


class Text(Enum):
    """What needles are hidden in."""

    noise = "noise"
    prose = "prose"
    needles = "needles"


@dataclass(frozen=True)
class Form:
    """What sets one needle task apart."""

    text: Text
    num_keys: int = 1
    num_values: int = 1
    num_queries: int = 1
    uuid_keys: bool = False
    uuid_values: bool = False


def forms(config: ProbeConfig) -> dict[str, Form]:
    """Returns RULER's eight tasks by name."""
    many = config.num_needles
    return {
        "niah_single_1": Form(Text.noise),
        "niah_single_2": Form(Text.prose),
        "niah_single_3": Form(Text.prose, uuid_values=True),
        "niah_multikey_1": Form(Text.prose, num_keys=many),
        "niah_multikey_2": Form(Text.needles),
        "niah_multikey_3": Form(Text.needles, uuid_keys=True, uuid_values=True),
        "niah_multivalue": Form(Text.prose, num_values=many),
        "niah_multiquery": Form(Text.prose, num_keys=many, num_queries=many),
    }


class Needles(Task):
    """One of the needle tasks."""

    score = staticmethod(contained)
    max_new_tokens = 128

    def __init__(self, form: Form, config: ProbeConfig) -> None:
        self._form, self._config = form, config
        self._vocabulary = vocabulary(config.num_words)
        num_needles = form.num_keys * form.num_values
        self.settings = () if form.uuid_values else ("value_digits",)
        self.settings += ("num_needles",) if num_needles > 1 else ()
        self.smallest = 50 if form.text is Text.prose else num_needles
        if form.text is Text.needles and not form.uuid_keys:
            self.largest = max(self.smallest, self._vocabulary.num_keys // MAX_SHARE_DRAWN - num_needles)

    def sample(self, draw: random.Random, size: int) -> Sample:
        """Returns a text with needles, and the question for some of them."""
        form, taken = self._form, set[str]()
        keys = self._keys(draw, form.num_keys, taken)
        flat = self._values(draw, form.num_keys * form.num_values)
        values = [flat[i * form.num_values : (i + 1) * form.num_values] for i in range(form.num_keys)]
        needles = [self._needle(key, value) for key, own in zip(keys, values, strict=True) for value in own]
        draw.shuffle(needles)
        context = self._context(draw, size, needles, taken, set(flat))
        asked = draw.sample(range(form.num_keys), form.num_queries)
        gold = tuple(value for i in asked for value in values[i])
        template = TEMPLATE
        if len(gold) == 1:
            for plural, singular in SINGULAR.items():
                template = template.replace(plural, singular)
        kind = self._kind if len(gold) > 1 else self._kind[:-1]
        names = [keys[i] for i in asked]
        query = ", ".join(names[:-1]) + f", and {names[-1]}" if len(names) > 1 else names[0]
        return Sample(template.format(kind=kind, context=context, query=query), gold, f" {', '.join(gold)}")

    def _context(self, draw: random.Random, size: int, needles: list[str], taken: set[str], values: set[str]) -> str:
        """Returns the text with the needles in it; `taken` keys and the asked values are nowhere else."""
        if self._form.text is Text.prose:
            return _in_prose(open_haystack(self._config.haystack).sentences(draw, size), needles, draw)
        if self._form.text is Text.noise:
            sentences = [NOISE] * size
        else:
            others = self._keys(draw, size, taken)
            sentences = [self._needle(key, self._other_value(draw, values)) for key in others]
        for place, needle in zip(sorted(draw.sample(range(size), len(needles)), reverse=True), needles, strict=True):
            sentences.insert(place, needle)
        return "\n".join(sentences)

    @property
    def _kind(self) -> str:
        return "uuids" if self._form.uuid_values else "numbers"

    def _needle(self, key: str, value: str) -> str:
        return NEEDLE.format(kind=self._kind, key=key, value=value)

    def _keys(self, draw: random.Random, count: int, taken: set[str]) -> list[str]:
        if self._form.uuid_keys:
            return different(lambda: identifier(draw), count, NUM_IDENTIFIERS, "", taken)
        return different(lambda: self._vocabulary.key(draw), count, self._vocabulary.num_keys, "num_words", taken)

    def _values(self, draw: random.Random, count: int) -> list[str]:
        possible = NUM_IDENTIFIERS if self._form.uuid_values else num_numbers(self._config.value_digits)
        return different(self._value(draw), count, possible, "value_digits", set())

    def _other_value(self, draw: random.Random, values: set[str]) -> str:
        make = self._value(draw)
        while (value := make()) in values:
            pass
        return value

    def _value(self, draw: random.Random) -> Callable[[], str]:
        if self._form.uuid_values:
            return lambda: identifier(draw)
        return lambda: number(draw, self._config.value_digits)


def _in_prose(sentences: list[str], needles: list[str], draw: random.Random) -> str:
    """Returns the sentences with needles between them, at depths that are drawn without replacement."""
    places = sorted(len(sentences) * depth // 100 for depth in draw.sample(DEPTHS, len(needles)))
    for place, needle in reversed(list(zip(places, needles, strict=True))):
        sentences.insert(place, needle)
    return " ".join(sentences)


def build(config: ProbeConfig) -> dict[str, Task]:
    """Returns the tasks of this file by name."""
    return {name: Needles(form, config) for name, form in forms(config).items()}
