"""Questions over documents of invented facts, in RULER's template for qa (NVIDIA/RULER scripts/data/synthetic).

RULER's qa_1 and qa_2 take paragraphs and questions of SQuAD and HotpotQA, which a model may have read. Here people,
towns and works have invented names and random attributes, so that the question does not tell the answer. `facts_1` asks
for one attribute. `facts_2` asks for an attribute of what another document leads to: of the town in which a person was
born. Documents come in a fresh order in each sample. Size: documents.
"""

import random
from dataclasses import dataclass

from evaluate.config import ProbeConfig
from evaluate.scoring import any_contained
from evaluate.tasks.task import Sample, Task
from evaluate.words import NUM_NAMES, different, name

INSTRUCTION = (
    "Answer the question based on the given documents. Only give me the answer and do not output any other words."
)
TEMPLATE = (
    f"{INSTRUCTION}\n\nThe following are given documents.\n\n{{context}}\n\n{INSTRUCTION}\n\n"
    "Question: {question} Answer:"
)


@dataclass(frozen=True)
class Attribute:
    """What a document says of its subject, {name}."""

    sentence: str
    """With the {value}."""
    question: str
    """Which the value answers."""


@dataclass(frozen=True)
class Link:
    """An attribute whose value is the subject of another document."""

    kind: str
    attribute: int
    to: str
    described: str
    """The other subject, by the first one's {name}."""


KINDS = {
    "person": (
        Attribute("{name} was born in the town of {value}.", "In which town was {name} born?"),
        Attribute("The teacher of {name} was {value}.", "Who was the teacher of {name}?"),
        Attribute("{name} owned a horse called {value}.", "What was the horse of {name} called?"),
    ),
    "town": (
        Attribute("The town of {name} lies on the river {value}.", "On which river does {name} lie?"),
        Attribute("The mayor of {name} is {value}.", "Who is the mayor of {name}?"),
        Attribute("The market of {name} is held on {value} Square.", "On which square is the market of {name} held?"),
    ),
    "work": (
        Attribute("The opera {name} was composed by {value}.", "Who composed {name}?"),
        Attribute(
            "In its first performance {name} was sung by {value}.", "Who sang in the first performance of {name}?"
        ),
        Attribute(
            "The manuscript of {name} is kept in {value} Castle.", "In which castle is the manuscript of {name}?"
        ),
    ),
}
"""What there are documents about. The first attribute of a kind is what a link leads along."""

LINKS = (
    Link("person", 0, "town", "the town in which {name} was born"),
    Link("work", 0, "person", "the composer of {name}"),
)


@dataclass
class Document:
    """A subject with its attributes."""

    kind: str
    name: str
    values: list[str]

    def text(self, draw: random.Random) -> str:
        """Returns the paragraph, its sentences in a random order."""
        pairs = zip(KINDS[self.kind], self.values, strict=True)
        sentences = [attribute.sentence.format(name=self.name, value=value) for attribute, value in pairs]
        draw.shuffle(sentences)
        return " ".join(sentences)


class Facts(Task):
    """Documents and a question that takes one of them, or two."""

    score = staticmethod(any_contained)
    max_new_tokens = 32

    def __init__(self, num_hops: int) -> None:
        self._num_hops = num_hops
        self.smallest = 2 * num_hops
        most_names = 1 + max(len(attributes) for attributes in KINDS.values())
        self.largest = NUM_NAMES // 2 // most_names

    def sample(self, draw: random.Random, size: int) -> Sample:
        """Returns the documents and the question."""
        question, gold, documents = (self._one_hop if self._num_hops == 1 else self._two_hops)(draw, size)
        draw.shuffle(documents)
        texts = [f"Document {number}:\n{each.text(draw)}" for number, each in enumerate(documents, 1)]
        return Sample(TEMPLATE.format(context="\n\n".join(texts), question=question), (gold,), f" {gold}")

    def _one_hop(self, draw: random.Random, size: int) -> tuple[str, str, list[Document]]:
        documents = _documents(draw, draw.choices(list(KINDS), k=size))
        asked = draw.choice(documents)
        number = draw.randrange(len(asked.values))
        return KINDS[asked.kind][number].question.format(name=asked.name), asked.values[number], documents

    def _two_hops(self, draw: random.Random, size: int) -> tuple[str, str, list[Document]]:
        """Returns documents of which one half leads to the other, one to one, and asks for what a link leads to."""
        link = draw.choice(LINKS)
        num_ends = size // 2
        documents = _documents(draw, [link.kind] * (size - num_ends) + [link.to] * num_ends)
        starts, ends = documents[:-num_ends], documents[-num_ends:]
        for start, end in zip(starts, ends, strict=False):
            start.values[link.attribute] = end.name
        place = draw.randrange(num_ends)
        start, end = starts[place], ends[place]
        number = draw.randrange(len(end.values))
        question = KINDS[link.to][number].question.format(name=link.described.format(name=start.name))
        return question, end.values[number], documents


def _documents(draw: random.Random, kinds: list[str]) -> list[Document]:
    """Returns a document of each kind; no name in them is used twice."""
    counts = [1 + len(KINDS[kind]) for kind in kinds]
    names = iter(different(lambda: name(draw), sum(counts), NUM_NAMES, "", set()))
    return [Document(kind, next(names), [next(names) for _ in KINDS[kind]]) for kind in kinds]


def build(config: ProbeConfig) -> dict[str, Task]:
    """Returns the tasks of this file by name."""
    del config
    return {"facts_1": Facts(1), "facts_2": Facts(2)}
