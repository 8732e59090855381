"""The message about a key that does not exist suggests the one that was meant."""

from train.compose.groups import groups
from train.compose.keys import config_keys
from train.compose.names import NO_KEY, OTHER_NAMES, closest_keys


def test_names_of_other_trainers_suggest_keys_that_exist_and_are_none_themselves() -> None:
    keys = {row.key for row in config_keys()}
    assert set(OTHER_NAMES.values()) <= keys
    assert not (OTHER_NAMES.keys() | NO_KEY.keys()) & (keys | set(groups()))


def test_a_misspelt_or_misplaced_key_suggests_the_one_that_exists() -> None:
    assert closest_keys("optimizer.lrr", 1) == ["optimizer.lr"]
    assert closest_keys("lerning_rate", 1) == ["optimizer.lr"]
    assert closest_keys("zero_stage", 1) == ["engine.zero_stage"]
    assert closest_keys("engine.keep_every", 1) == ["checkpoint.keep_every"]
    assert closest_keys("data.sources.web.weigth", 1) == ["data.sources.web.weight"]
    assert closest_keys("positions.yarn.facter", 1) == ["positions.yarn.factor"]
    assert closest_keys("run.name") == ["name"]
    assert closest_keys("run") == [], "a search has rungs"
    assert closest_keys("modle", 1) == ["model"]


def test_what_is_like_no_key_suggests_none() -> None:
    assert closest_keys("xyzzy") == closest_keys("optimizer.name") == []
