"""Questions over invented documents: the documents answer them, once, and the question does not."""

import functools
import random
import re
from collections import Counter

import pytest

from evaluate.config import parse_config
from evaluate.tasks import build_tasks
from evaluate.tasks.facts import KINDS, LINKS
from evaluate.tasks.task import Sample, Task

NUM_DOCUMENTS = 9


@functools.cache
def tasks() -> dict[str, Task]:
    """Returns all tasks."""
    return build_tasks(parse_config([]))


def drawn(name: str, seed: int) -> Sample:
    """Returns a sample."""
    return tasks()[name].sample(random.Random(seed), NUM_DOCUMENTS)


def parts(sample: Sample) -> tuple[list[str], str]:
    """Returns the documents and the question."""
    context, _, rest = sample.prompt.partition("given documents.\n\n")[2].partition("\n\nAnswer the question")
    texts = re.split(r"(?:^|\n\n)Document \d+:\n", context)[1:]
    return texts, rest.partition("Question: ")[2].removesuffix(" Answer:")


def read(text: str) -> tuple[str, dict[str, str]]:
    """Returns what a document is about, and its sentences' values by the questions that they answer."""
    for attributes in KINDS.values():
        found = {}
        for attribute in attributes:
            pattern = re.escape(attribute.sentence).replace(r"\{name\}", "(?P<name>\\w+)")
            match = re.search(pattern.replace(r"\{value\}", "(?P<value>\\w+)"), text)
            if match:
                found[attribute.question.format(name=match["name"])] = match["value"]
                name = match["name"]
        if len(found) == len(attributes):
            return name, found
    raise AssertionError(f"no kind of document: {text}")


def answered(question: str, documents: dict[str, dict[str, str]]) -> list[str]:
    """Returns what a reader who follows links answers."""
    for link in LINKS:
        first = KINDS[link.kind][link.attribute].question
        for name, values in documents.items():
            question_of_first = first.format(name=name)
            if question_of_first in values:
                question = question.replace(link.described.format(name=name), values[question_of_first])
    return [values[question] for values in documents.values() if question in values]


@pytest.mark.parametrize("name", ["facts_1", "facts_2"])
def test_one_answer_is_right_and_the_question_does_not_hold_it(name: str) -> None:
    kinds, places = set(), Counter[int]()
    for seed in range(300):
        sample = drawn(name, seed)
        texts, question = parts(sample)
        documents = dict(read(text) for text in texts)
        assert len(texts) == len(documents) == NUM_DOCUMENTS
        assert answered(question, documents) == list(sample.gold) and sample.answer == f" {sample.gold[0]}"
        assert sample.prompt.count(sample.gold[0]) == 1 and sample.gold[0] not in question
        places[[sample.gold[0] in text for text in texts].index(True)] += 1
        kinds.add(question[:8])
    assert len(places) == NUM_DOCUMENTS and max(places.values()) < 0.25 * 300  # in a fresh order each time
    assert len(kinds) > 4


def test_the_second_question_takes_two_documents() -> None:
    for seed in range(50):
        sample = drawn("facts_2", seed)
        texts, question = parts(sample)
        [named] = {name for name in re.findall(r"\b[A-Z][a-z]{5}\b", question) if any(name in text for text in texts)}
        [start] = [text for text in texts if read(text)[0] == named]
        [end] = [text for text in texts if sample.gold[0] in text]
        assert start != end and named not in end and read(end)[0] in start
        assert sum(read(text)[0] in "".join(texts).replace(text, "") for text in texts) == NUM_DOCUMENTS // 2


def test_the_wording_is_rulers() -> None:
    sample = drawn("facts_1", 0)
    said = (
        "Answer the question based on the given documents. Only give me the answer and do not output any other words."
    )
    assert sample.prompt.startswith(f"{said}\n\nThe following are given documents.\n\nDocument 1:\n")
    assert (
        sample.prompt.count(said) == 2 and sample.prompt.endswith("? Answer:") and f"\n\n{said}\n\nQ" in sample.prompt
    )


@pytest.mark.parametrize("name", ["facts_1", "facts_2"])
def test_who_lists_every_name_is_right_and_who_is_silent_is_not(name: str) -> None:
    task, sample = tasks()[name], drawn(name, 0)
    assert task.score(sample.answer, sample.gold) == 1 and task.score("", sample.gold) == 0
    assert task.score(" ".join(re.findall(r"\w+", sample.prompt)), sample.gold) == 1  # as in RULER: docs/evaluate.md
    assert task.score(parts(sample)[1], sample.gold) == 0
