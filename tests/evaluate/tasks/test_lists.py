"""Copy, reverse and key-value: what they ask, and what a model of a rule scores."""

import random

import pytest

from evaluate.config import parse_config
from evaluate.tasks import build_tasks
from evaluate.tasks.task import Sample


def drawn(name: str, seed: int, *settings: str) -> Sample:
    """Returns a sample of 12 items."""
    return build_tasks(parse_config(settings))[name].sample(random.Random(seed), 12)


@pytest.mark.parametrize("items", ["letters", "numbers", "words"])
def test_copy_and_reverse_list_the_same_items(items: str) -> None:
    for name, step in (("copy", 1), ("reverse", -1)):
        sample = drawn(name, 0, f"items={items}", "value_digits=2")
        solved, asked = sample.prompt.split("\n")[1:3], sample.prompt.split("\n")[2].split()[1:]
        assert asked[::step] == list(sample.gold) == sample.answer.split() and len(asked) == 12
        example = sample.prompt.split("\n")[0].split()[1:]
        assert solved[0].split()[1:] == example[::step] and len(example) == 4


def test_a_key_has_its_own_value() -> None:
    places = set()
    for seed in range(8):
        sample = drawn("key_value", seed, "value_digits=2")
        lines, _, asked = sample.prompt.rpartition("\n\n")
        pairs = dict(line.split(": ") for line in lines.split("\n"))
        assert len(pairs) == len(set(pairs.values())) == 12
        assert sample.gold == (pairs[asked.removesuffix(":")],) and sample.answer == f" {sample.gold[0]}"
        places.add(list(pairs).index(asked.removesuffix(":")))
    assert len(places) > 3


@pytest.mark.parametrize("name", ["copy", "reverse", "key_value"])
def test_babble_and_silence_score_nothing(name: str) -> None:
    task, sample = build_tasks(parse_config([]))[name], drawn(name, 0)
    assert task.score(sample.answer, sample.gold) == 1
    assert task.score(f"{sample.answer}\n\nand so on", sample.gold) == 1
    assert task.score("", sample.gold) == 0
    assert task.score(sample.prompt, sample.gold) < 0.25  # everything that it has read; a letter fits by chance
