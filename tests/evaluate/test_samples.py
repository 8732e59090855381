"""Samples of every task: never longer than asked, the same for a seed, different from each other."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from evaluate.config import parse_config
from evaluate.errors import EvaluateError
from evaluate.samples import Samples
from evaluate.tasks import build_tasks

LENGTH = 1500
TASKS = build_tasks(parse_config([]))
NAMES = tuple(TASKS)
Encode = Callable[[str], list[int]]


@pytest.fixture(scope="module")
def encode(sample: Path) -> Encode:
    """The tokenizer of the sample mix: 512 tokens."""
    tokenizer = Tokenizer.from_file(str(sample / "tokenizer.json"))
    return lambda text: tokenizer.encode(text, add_special_tokens=False).ids


def samples(name: str, length: int, encode: Encode, *settings: str) -> Samples:
    """Returns the samples of a task at a length."""
    config = parse_config([f"task={name}", *settings])
    return Samples(name, build_tasks(config)[name], length, config, encode)


@pytest.mark.parametrize("name", NAMES)
def test_no_sample_is_longer_than_the_length(name: str, encode: Encode) -> None:
    several = samples(name, LENGTH, encode, "max_items=1000")
    fitted = [several[index] for index in range(4)]
    assert all(each.num_tokens <= LENGTH and len(each.answer) <= each.max_new_tokens for each in fitted)
    assert max(each.num_tokens for each in fitted) > 0.8 * LENGTH


@pytest.mark.parametrize("name", NAMES)
def test_the_answer_continues_the_tokens_of_the_prompt(name: str, encode: Encode) -> None:
    fitted = samples(name, LENGTH, encode)[0]
    assert encode(fitted.sample.prompt + fitted.sample.answer) == fitted.prompt + fitted.answer
    score = TASKS[name].score
    assert score(fitted.sample.answer, fitted.sample.gold) == 1 and score("", fitted.sample.gold) == 0


@pytest.mark.parametrize("name", NAMES)
def test_samples_are_a_function_of_seed_and_index(name: str) -> None:
    task = TASKS[name].at_length(LENGTH)
    made = [task.sample(random.Random(seed), task.smallest + 5) for seed in ("1", "1", "2")]
    assert made[0] == made[1] and made[0].prompt != made[2].prompt
    assert made[0].wrong_answers or made[0].gold != made[2].gold


def test_more_samples_and_another_order_leave_a_sample_as_it_is(encode: Encode) -> None:
    first, second = (samples("niah_multikey_1", LENGTH, encode) for _ in range(2))
    ahead = [first[index] for index in range(3)]
    assert second[2] == ahead[2] and len({each.sample.prompt for each in ahead}) == 3
    assert samples("niah_multikey_1", LENGTH, encode, "seed=1")[2] != ahead[2]


def test_a_length_too_short_is_an_error_that_says_how_long_it_must_be(encode: Encode) -> None:
    with pytest.raises(EvaluateError, match=r"length=300: vt takes .* tokens at least"):
        samples("vt", 300, encode)[0]
