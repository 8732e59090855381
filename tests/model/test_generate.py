"""Generating with kept keys and values gives the tokens of running the whole text again."""

from itertools import islice

import pytest
import torch

from model.config import PositionsConfig, YarnConfig
from model.generate import learned_positions, most_likely, next_tokens
from model.positions.repo import Repo
from tests.model.small import ROPE, built, small

MIXED = PositionsConfig("list", layers=["rope", "repo", "nope"])
YARN = PositionsConfig("repo", start_layer=1, yarn=YarnConfig(factor=4.0, original_max_position=16))
PROMPT = torch.randint(96, (7,), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("num_kv_heads", [None, 2])
@pytest.mark.parametrize("positions", [ROPE, MIXED, YARN])
def test_a_cache_changes_no_token(
    monkeypatch: pytest.MonkeyPatch, positions: PositionsConfig, num_kv_heads: int | None, temperature: float
) -> None:
    model = built(small(num_kv_heads=num_kv_heads), positions)

    def twenty() -> list[int]:
        generator = torch.Generator().manual_seed(1)
        return list(islice(next_tokens(model, PROMPT, temperature=temperature, generator=generator), 20))

    cached = twenty()
    for scheme in {type(block.positions.scheme) for block in model.layers}:  # type: ignore[union-attr]
        monkeypatch.setattr(scheme, "is_tokenwise", False)
    assert twenty() == cached


def test_positions_are_those_of_the_forward_pass() -> None:
    model = built(small(num_kv_heads=2), MIXED)
    found = learned_positions(model, PROMPT)
    assert found.keys() == {1} and found[1].shape == (7, 2)
    shorter = learned_positions(model, PROMPT[:4])
    torch.testing.assert_close(found[1][:4], shorter[1])
    assert Repo.is_tokenwise and learned_positions(built(small(), ROPE), PROMPT) == {}


def test_what_a_model_keeps_from_generating_can_be_trained_with() -> None:
    kept: list[torch.Tensor] = []
    model = built(small(), ROPE)
    model.embed_tokens.register_forward_hook(lambda module, inputs, output: kept.append(output))
    assert len(most_likely(model, PROMPT, 3, [])) == 3 and len(kept) >= 3
    assert not any(each.is_inference() or each.requires_grad for each in kept)


def test_the_most_likely_tokens_end_before_eos() -> None:
    model = built(small(), ROPE)
    six = most_likely(model, PROMPT, 6, [])
    assert most_likely(model, PROMPT, 6, [six[3]]) == six[: six.index(six[3])]
