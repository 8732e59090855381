"""model/hf_yarn.py: what a config.json says of YaRN is understood whole, or refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from model.errors import ModelError
from model.export import save_hf
from model.hf_yarn import file_yarn
from tests.model.described import ROPE_YARN, described, load
from tests.model.small import ROPE, built, small

FACTOR = {"factor": 4.0, "original_max_position_embeddings": 4096}


@pytest.mark.parametrize("key", ["rope_scaling", "rope_parameters"])
@pytest.mark.parametrize(
    ("scaling", "said"),
    [
        (
            {"full_attention": {"rope_type": "yarn", "factor": 4.0}},
            'has full_attention {"rope_type": "yarn", "factor": 4.0}, but all layers share one description here: put ',
        ),
        ({"rope_type": "default", "type": "yarn", "factor": 4.0}, 'has rope_type "default" and type "yarn": correct'),
        ({"rope_type": None, "type": "yarn", "factor": 4.0}, 'has rope_type null and type "yarn": correct the wrong'),
        ({"rope_type": "yarn", "type": "linear", "factor": 4.0}, 'has rope_type "yarn" and type "linear": correct'),
        (FACTOR, "has factor 4.0, original_max_position_embeddings 4096, but no rope_type: write "),
        ({"rope_type": "default", **FACTOR}, 'embeddings 4096, but rope_type "default": write "rope_type": "yarn" if'),
        ({"rope_type": None, "rope_theta": 5e5, "factor": 4.0}, "has factor 4.0, but rope_type null: write "),
    ],
)
def test_a_description_that_is_not_clear_is_refused(key: str, scaling: dict[str, Any], said: str) -> None:
    with pytest.raises(ModelError) as raised:
        file_yarn({key: json.loads(json.dumps(scaling))})
    message = str(raised.value)
    assert message.startswith(f"config.json's {key} has ") and said in message and "\n" not in message


@pytest.mark.parametrize(
    "scaling",
    [
        None,
        {},
        {"rope_type": "default", "rope_theta": 500000.0},
        {"rope_type": None, "type": "default", "partial_rotary_factor": 1.0},
        {"rope_theta": 500000.0, "factor": None},
    ],
)
def test_rotations_without_yarn_have_none(scaling: dict[str, Any] | None) -> None:
    assert file_yarn({"rope_scaling": scaling}) is None and file_yarn({"rope_parameters": scaling}) is None


@pytest.mark.parametrize("kind", [{"type": "yarn"}, {"rope_type": "yarn"}, {"rope_type": "yarn", "type": "yarn"}])
def test_both_names_of_the_kind_may_say_the_same(kind: dict[str, str]) -> None:
    found = file_yarn({"rope_scaling": {**FACTOR, **kind}})
    assert found is not None and (found["factor"], found["original_max_position"]) == (4.0, 4096.0)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with YaRN, exported."""
    folder = tmp_path_factory.mktemp("exports") / "yarn"
    save_hf(folder, small(), ROPE_YARN, built(small(), ROPE_YARN, seed=3).named_parameters())
    return folder


NEW_YARN = {"rope_theta": 500000.0, "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}


@pytest.mark.parametrize(
    "changes",
    [
        {"rope_scaling": {"type": "yarn", "factor": 4.0}, "max_position_embeddings": 64},
        {"rope_scaling": None, "rope_parameters": NEW_YARN, "rope_theta": None},
        {"rope_parameters": NEW_YARN},
        {"rope_scaling": None, "rope_parameters": NEW_YARN | {"attention_factor": 1.138629436}},
        {"rope_scaling": None, "rope_parameters": NEW_YARN | {"mscale": 1.0, "mscale_all_dim": 0.0}},
    ],
)
def test_yarn_is_read_in_old_and_new_spellings(exported: Path, tmp_path: Path, changes: dict[str, Any]) -> None:
    folder = described(exported, tmp_path / "yarn", **changes)
    load(folder, ROPE_YARN)
    with pytest.raises(ModelError, match=r"has YaRN with factor 4, but positions\.yarn is null"):
        load(folder, ROPE)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"attention_factor": 1.0},
            "an attention factor of 1, but here it is always 0.1 ln\\(factor\\) \\+ 1 = 1.13863",
        ),
        ({"mscale": 1.0, "mscale_all_dim": 1.0}, "an attention factor of 1, but here it is"),
        ({"truncate": False}, "truncate=false, which is not known here"),
        ({"beta_fast": 16}, "beta_fast 16 and positions.yarn.beta_fast is 32: set positions.yarn.factor=4 "),
        (
            {"original_max_position_embeddings": 32},
            "original_max_position 32 and positions.yarn.original_max_position is",
        ),
    ],
)
def test_another_yarn_is_refused(exported: Path, tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    scaling = {"rope_scaling": None, "rope_parameters": NEW_YARN | changes}
    folder = described(exported, tmp_path / "yarn", **scaling)
    with pytest.raises(ModelError, match=said):
        load(folder, ROPE_YARN)


def test_two_descriptions_of_yarn_must_agree(exported: Path, tmp_path: Path) -> None:
    folder = described(exported, tmp_path / "yarn", rope_parameters={"rope_type": "default", "rope_theta": 500000.0})
    with pytest.raises(
        ModelError, match=r"scaling has YaRN with factor 4, .* and its rope_parameters has no YaRN: correct"
    ):
        load(folder, ROPE_YARN)
