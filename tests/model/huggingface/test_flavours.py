"""Each flavour says what its readers need, and refuses what they cannot compute."""

import json
from pathlib import Path

import pytest

from model.config import PositionsConfig, YarnConfig
from model.errors import ModelError
from model.export import save_hf
from model.huggingface.card import Training, model_card
from model.huggingface.flavours import CODE_FILES, Flavour, check_flavour, default_flavour, describe
from tests.model.small import REPO, ROPE, built, small

NOPE, R2N1 = PositionsConfig("nope"), PositionsConfig("r2n1")
MIXED = PositionsConfig("list", layers=["rope", "repo", "nope"])
YARN = PositionsConfig("repo", start_layer=1, yarn=YarnConfig())


@pytest.mark.parametrize("positions", [REPO, NOPE, R2N1, MIXED, YARN])
def test_only_a_rope_model_passes_for_a_plain_olmo2(tmp_path: Path, positions: PositionsConfig) -> None:
    save_hf(tmp_path / "out", small(), positions, built(small(), positions).named_parameters())
    described = json.loads((tmp_path / "out" / "config.json").read_text())
    assert described["model_type"] == "repo_olmo2" and "pe_config" not in described
    for code in CODE_FILES:
        assert (tmp_path / "out" / code.name).read_bytes() == code.read_bytes()
    with pytest.raises(ModelError, match=r"flavour olmo2 is RoPE in every layer, but this model has .*: use flavour"):
        check_flavour(Flavour.olmo2, small(), positions)


def test_a_rope_model_is_a_plain_olmo2_unless_asked_otherwise() -> None:
    assert default_flavour(small(), ROPE) is Flavour.olmo2
    described = describe(Flavour.olmo2, small(), ROPE, "float32", 64)
    assert described["model_type"] == "olmo2" and "auto_map" not in described
    assert describe(Flavour.auto, small(), ROPE, "float32", 64)["layer_positions"] == ["rope"] * 3


@pytest.mark.parametrize("positions", [ROPE, YARN])
def test_old_and_new_readers_find_their_keys(positions: PositionsConfig) -> None:
    described = describe(default_flavour(small(), positions), small(), positions, "bfloat16", 64)
    assert described["dtype"] == described["torch_dtype"] == "bfloat16"
    assert described["rope_parameters"]["rope_theta"] == described["rope_theta"] == 500000.0
    if positions.yarn is not None:
        assert described["rope_parameters"] == described["rope_scaling"] | {"rope_theta": 500000.0}


@pytest.mark.parametrize("positions", [ROPE, REPO, NOPE, R2N1])
def test_the_published_flavour_is_what_the_forks_read(positions: PositionsConfig) -> None:
    described = describe(Flavour.published, small(), positions, "float32", 64)
    assert described["model_type"] == "olmo2" and described["rope_scaling"] is None
    assert {"rope_theta", "torch_dtype"} < described.keys() and "rope_parameters" not in described
    assert ("dynmaic_pe_start_layer" in described.get("pe_config", {})) == (positions is not ROPE)


def test_a_card_warns_of_misreading_and_tells_of_learned_positions_where_there_are_any() -> None:
    def card(flavour: Flavour, positions: PositionsConfig) -> str:
        return model_card(flavour, small(), positions, Training("tiny", 1))

    assert card(Flavour.published, ROPE) == card(Flavour.olmo2, ROPE)
    assert "its output is then wrong" in card(Flavour.published, NOPE)
    for positions in (ROPE, NOPE, REPO):
        told = "RePo gives each token" in card(Flavour.auto, positions)
        assert told == ('"repo"' in card(Flavour.auto, positions)) == (positions is REPO)


@pytest.mark.parametrize(
    ("num_kv_heads", "positions", "said"),
    [
        (None, YARN, "YaRN in the file"),
        (2, REPO, "2 key-value heads for 4 query heads"),
        (None, PositionsConfig("repo", hidden_divisor=4), "positions.hidden_divisor=4 instead of 8"),
        (None, MIXED, "layers of nope and repo in one model"),
    ],
)
def test_the_published_flavour_refuses_what_the_forks_cannot_open(
    num_kv_heads: int | None, positions: PositionsConfig, said: str
) -> None:
    with pytest.raises(ModelError) as raised:
        check_flavour(Flavour.published, small(num_kv_heads=num_kv_heads), positions)
    assert said in str(raised.value) and str(raised.value).endswith("use flavour auto")
