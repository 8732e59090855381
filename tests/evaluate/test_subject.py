"""A model answers greedily, and the likelihood of an answer is that of its logits."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from evaluate.errors import EvaluateError
from evaluate.subject import ModelSubject
from model.config import PositionsConfig
from tests.model.small import built, small


@pytest.fixture(scope="module")
def subject(sample: Path) -> ModelSubject:
    """A model of random weights with mixed positions."""
    positions = PositionsConfig("list", layers=["rope", "repo", "nope"])
    tokenizer = Tokenizer.from_file(str(sample / "tokenizer.json"))
    return ModelSubject(built(small(vocab_size=512), positions), tokenizer, torch.device("cpu"), [0])


def test_an_answer_is_the_most_likely_one(subject: ModelSubject) -> None:
    prompt = subject.encode("the table of words")
    text = list(prompt)
    for _ in range(6):
        text.append(int(subject.model(torch.tensor([text]))[0, -1].argmax()))
    expected = text[len(prompt) :]
    assert 0 not in expected and subject.continued(prompt, 6) == expected
    stops = ModelSubject(subject.model, subject.tokenizer, subject.device, [0, expected[3]])
    assert stops.continued(prompt, 6) == expected[: expected.index(expected[3])]


def test_the_nll_is_that_of_the_answer_alone(subject: ModelSubject) -> None:
    prompt, answer = subject.encode("the table"), subject.encode(" of words")
    log_p = subject.model(torch.tensor([prompt + answer]))[0].detach().log_softmax(-1)
    expected = -sum(float(log_p[len(prompt) - 1 + i, token]) for i, token in enumerate(answer))
    assert subject.nll(prompt, answer) == pytest.approx(expected, rel=1e-5)


def test_a_text_that_the_tokenizer_cannot_read_is_a_mistake(subject: ModelSubject) -> None:
    words = Tokenizer(WordLevel({"the": 0}, unk_token="[UNK]"))
    with pytest.raises(EvaluateError, match="the tokenizer cannot read this text"):
        replace(subject, tokenizer=words).encode("table")


def test_digests_tell_weights_apart(subject: ModelSubject) -> None:
    other = ModelSubject(
        built(small(vocab_size=512), PositionsConfig("list", layers=["rope", "repo", "nope"]), seed=1),
        subject.tokenizer,
        subject.device,
        [0],
    )
    assert subject.digests() == subject.digests()
    assert subject.digests()["weights"] != other.digests()["weights"]
    assert subject.digests()["tokenizer"] == other.digests()["tokenizer"]
