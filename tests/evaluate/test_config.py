"""Settings on the command line, and the table that explains them."""

import re
from dataclasses import fields
from pathlib import Path

import pytest

from evaluate.config import Items, ProbeConfig, parse_config
from evaluate.errors import EvaluateError
from evaluate.tasks import build_tasks

DOCS = (Path(__file__).parents[2] / "docs/evaluate.md").read_text()


def test_lists_are_written_with_and_without_brackets() -> None:
    plain, bracketed = parse_config(["task=copy,vt", "length=8"]), parse_config(["task=[copy,vt]", "length=[8]"])
    assert plain == bracketed and plain.task == ["copy", "vt"] and plain.length == [8]
    assert parse_config(["items=words"]).items is Items.words
    assert parse_config(["yarn=8:2,16:4.5"]) == parse_config(["yarn={8: 2, 16: 4.5}"])
    assert parse_config(["yarn=8:2,16:4.5"]).yarn == {8: 2.0, 16: 4.5}


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("lenght=5", "no key lenght; did you mean length"),
        ("copy", "copy is no setting: write key=value"),
        ("num_samples=0", "num_samples=0 must be 1 or more"),
        ("length=128,0", "must be 1 or more"),
        ("items=emoji", "items: Invalid value 'emoji'"),
        ("seed=first", "seed=first: seed takes a whole number, as in seed=10"),
        ("length=abc", "length=abc: length takes whole numbers, as in length=256,512"),
        ("length=256,1.5", "length=256,1.5: length takes whole numbers"),
        ("max_new_tokens=x", "max_new_tokens=x: max_new_tokens takes a whole number"),
        ("generate=7x", "generate=7x: generate takes true or false"),
        ("yarn=8:x", "yarn=8:x: yarn takes LENGTH:FACTOR, as in yarn=8192:2"),
        ("num_words=5", "num_words=5 must be 30 or more"),
        ("task=copy,copy", "names one twice"),
        ("seed=[", "seed=[ cannot be read"),
        ("yarn=8192", "yarn=8192: write yarn=LENGTH:FACTOR"),
        ("yarn=8192:0.5", "factors must be 1 or more"),
    ],
)
def test_a_mistake_names_the_key(setting: str, said: str) -> None:
    with pytest.raises(EvaluateError) as caught:
        parse_config([setting])
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_yarn_is_for_lengths_that_are_probed() -> None:
    with pytest.raises(EvaluateError, match="yarn has a factor for length 16, which is none of"):
        parse_config(["length=8", "yarn=16:2"])


def test_the_docs_explain_every_key_and_task() -> None:
    explained = set(re.findall(r"^\| `(\w+)`", DOCS, flags=re.MULTILINE))
    assert {field.name for field in fields(ProbeConfig)} | set(build_tasks(ProbeConfig())) <= explained
