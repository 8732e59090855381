"""model/hf_yarn.py: what a config.json says of YaRN is understood whole, or refused. Loading: test_hf_config.py."""

import json
from typing import Any

import pytest

from model.errors import ModelError
from model.hf_yarn import file_yarn

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
