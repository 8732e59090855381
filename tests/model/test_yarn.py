"""A model under YaRN: the weights of another, its logits those of a model built with YaRN."""

import pytest
import torch

from model.config import PositionsConfig, YarnConfig
from model.errors import ModelError
from model.yarn import with_yarn
from tests.model.small import built, small

YARN = YarnConfig(factor=4.0, original_max_position=16)


@pytest.mark.parametrize("scheme", ["rope", "repo", "residual"])
def test_weights_are_shared_and_logits_are_those_of_a_model_built_with_yarn(scheme: str) -> None:
    config, tokens_bt = small(), torch.arange(40)[None]
    plain = built(config, PositionsConfig(scheme))
    stretched = with_yarn(plain, config, PositionsConfig(scheme), YARN)
    assert all(a is b for a, b in zip(plain.parameters(), stretched.parameters(), strict=True))
    expected = built(config, PositionsConfig(scheme, yarn=YARN))(tokens_bt)
    assert torch.equal(stretched(tokens_bt), expected)
    assert not torch.equal(plain(tokens_bt), expected)


def test_a_model_that_has_yarn_is_refused() -> None:
    positions = PositionsConfig("rope", yarn=YARN)
    with pytest.raises(ModelError, match="has YaRN already, of factor 4"):
        with_yarn(built(small(), positions), small(), positions, YARN)
