"""RULER's tasks hold what they ask for, in its construction, in a fresh order in each sample."""

import random
import re
from collections import Counter
from itertools import pairwise

import pytest

from evaluate.config import MAX_NEEDLES, parse_config
from evaluate.errors import EvaluateError
from evaluate.tasks import build_tasks
from evaluate.tasks.needles import NOISE
from evaluate.tasks.task import Sample, Task

NEEDLE = re.compile(r"One of the special magic (numbers|uuids) for (\S+) is: (\S+)\.")
NEEDLES = {  # name -> needles of the question, gold values, characters of a value
    "niah_single_1": (1, 1, 7),
    "niah_single_2": (1, 1, 7),
    "niah_single_3": (1, 1, 36),
    "niah_multikey_1": (4, 1, 7),
    "niah_multikey_2": (61, 1, 7),
    "niah_multikey_3": (61, 1, 36),
    "niah_multivalue": (4, 4, 7),
    "niah_multiquery": (4, 4, 7),
}
SIZE = 60


def task(name: str, *settings: str) -> Task:
    """Returns a task by name."""
    return build_tasks(parse_config(settings))[name]


def drawn(name: str, seed: int, size: int = SIZE, *settings: str) -> Sample:
    """Returns a sample of a seed."""
    return task(name, *settings).sample(random.Random(seed), size)


@pytest.mark.parametrize(("name", "num_needles", "num_gold", "width"), [(name, *of) for name, of in NEEDLES.items()])
def test_every_gold_value_is_in_one_needle_of_a_queried_key(
    name: str, num_needles: int, num_gold: int, width: int
) -> None:
    sample = drawn(name, 0)
    needles = NEEDLE.findall(sample.prompt)
    text, _, question = sample.prompt.rpartition("What")
    assert len(needles) == num_needles and len(sample.gold) == len(set(sample.gold)) == num_gold
    assert {len(value) for _, _, value in needles} == {width}
    keys = {value: key for _, key, value in needles}
    assert len(keys) == num_needles and all(text.count(value) == 1 for value in sample.gold)
    assert all(keys[value] in question for value in sample.gold)
    others = {key for _, key, _ in needles} - {keys[value] for value in sample.gold}
    assert not any(key in question for key in others)
    assert ("is" if num_gold == 1 else "are") == sample.prompt.split()[-1]


def test_the_wording_is_rulers() -> None:
    sample = drawn("niah_single_1", 1, 2)
    [(kind, key, value)] = NEEDLE.findall(sample.prompt)
    needle = f"One of the special magic {kind} for {key} is: {value}."
    head = (
        "A special magic number is hidden within the following text. Make sure to memorize it. I will quiz you about "
        "the number afterwards."
    )
    tail = (
        f"What is the special magic number for {key} mentioned in the provided text? The special magic number for "
        f"{key} mentioned in the provided text is"
    )
    assert sorted(sample.prompt.split("\n")) == sorted([head, NOISE, NOISE, needle, tail])
    assert sample.answer == f" {value}"


@pytest.mark.parametrize("name", ["niah_multivalue", "niah_multiquery", "niah_multikey_1"])
def test_needles_are_permuted_afresh_in_each_sample(name: str) -> None:
    orders = set()
    for seed in range(30):
        sample = drawn(name, seed)
        values = [value for _, _, value in NEEDLE.findall(sample.prompt)]
        orders.add(tuple(values.index(value) for value in sample.gold))
    assert len(orders) >= 4


def test_needles_stand_at_all_depths_of_the_prose() -> None:
    depths = [(text := drawn("niah_single_2", seed, 2000).prompt).index("One of the") / len(text) for seed in range(40)]
    assert min(depths) < 0.2 and max(depths) > 0.8


def test_few_values_are_an_error_and_not_an_endless_search() -> None:
    assert len(drawn("niah_multivalue", 0, SIZE, "value_digits=1").gold) == 4
    with pytest.raises(EvaluateError, match="value_digits is too small"):
        drawn("niah_multivalue", 0, SIZE, "value_digits=1", "num_needles=5")
    with pytest.raises(EvaluateError, match="num_needles=41 must be 40 or less"):
        parse_config([f"num_needles={MAX_NEEDLES + 1}"])
    assert (task("niah_multikey_2", "num_words=30").largest or 0) <= 30 * 30 // 2


def test_a_chain_of_variables_is_in_order_and_has_an_example_before_it() -> None:
    sample = drawn("vt", 0)
    example, question = sample.prompt.split("\n\nMemorize")
    for text, names in ((question, list(sample.gold)), (example, example.split()[-5:])):
        lines = [line.strip() for line in text.split("\n") if line.startswith("VAR")]
        value = lines[0].rpartition(" ")[2]
        assert lines == [f"VAR {names[0]} = {value}", *(f"VAR {b} = VAR {a}" for a, b in pairwise(names))]
        assert f"5 variables are assigned the value {value}, they are: " in text
    assert question.count(NOISE) == SIZE and sample.prompt.endswith("they are: ")
    places = {drawn("vt", seed).prompt.split("\n").index(NOISE) for seed in range(3)}
    assert places and len({tuple(drawn("vt", seed).gold) for seed in range(3)}) == 3


@pytest.mark.parametrize(("length", "counts"), [(2048, (6, 1)), (4096, (30, 3))])
def test_common_words_are_the_most_common(length: int, counts: tuple[int, int]) -> None:
    made = [task("cwe").at_length(length).sample(random.Random(seed), 25) for seed in range(2)]
    firsts = []
    for sample in made:
        listed = sample.prompt.split("\n")[-2]
        words = re.split(r" ?\d+\. ", listed)[1:]
        found = Counter(words)
        assert {word for word, count in found.items() if count == counts[0]} == set(sample.gold)
        assert set(found.values()) == set(counts) and len(sample.gold) == 10 and len(found) == 25
        firsts.append([words.index(word) for word in sample.gold])
    assert firsts[0] != firsts[1]  # another permutation
    assert made[0].prompt.count("Answer: The top 10 words") == 2 and made[0].answer.startswith(
        f" 1. {made[0].gold[0]} 2."
    )


@pytest.mark.parametrize("size", [None, 1000])
def test_frequent_words_are_the_most_frequent_after_the_dots(size: int | None) -> None:
    fwe = task("fwe").at_length(4096)
    sample = fwe.sample(random.Random(0), size or fwe.smallest)
    text = sample.prompt.split("coded words. ")[1].partition("\n")[0]
    [(dots, _), *ranked] = Counter(text.split()).most_common()
    assert dots == "..." and tuple(word for word, _ in ranked[:3]) == sample.gold
    assert ranked[2][1] > (ranked[3][1] if len(ranked) > 3 else 0)
    if size:
        assert [count for _, count in ranked[:3]] == [151, 67, 37]  # int(1000 / k^2 / 1.6449)


def test_an_unknown_task_names_the_closest() -> None:
    with pytest.raises(EvaluateError, match=r"task=niah_singel_1: .* did you mean niah_single_1"):
        build_tasks(parse_config(["task=copy,niah_singel_1"]))
