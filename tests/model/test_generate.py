"""Generating with kept keys and values gives the tokens of running the whole text again."""

from itertools import islice

import pytest
import torch

from model.config import PositionsConfig, YarnConfig
from model.generate import learned_positions, next_tokens
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
        monkeypatch.setattr(scheme, "in_remote_code", False)
    assert twenty() == cached


def test_positions_are_those_of_the_forward_pass() -> None:
    model = built(small(num_kv_heads=2), MIXED)
    found = learned_positions(model, PROMPT)
    assert found.keys() == {1} and found[1].shape == (7, 2)
    shorter = learned_positions(model, PROMPT[:4])
    torch.testing.assert_close(found[1][:4], shorter[1])
    assert Repo.in_remote_code and learned_positions(built(small(), ROPE), PROMPT) == {}
