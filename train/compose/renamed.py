"""Config keys that have new names: saved configs and command lines that use the old ones keep working."""

from collections.abc import Iterable, Mapping
from typing import Any

from common.words import config_text
from train.errors import TrainError

RENAMED = {"positions.hidden_ratio": "positions.hidden_divisor"}
"""Old key -> new key, in the same group."""


def with_new_keys(plain: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a plain config with old keys renamed. Raises TrainError if both names are there with different values."""
    renamed = dict(plain)
    for old, new in RENAMED.items():
        group, _, old_leaf = old.rpartition(".")
        new_leaf = new.rpartition(".")[2]
        if not isinstance(renamed.get(group), Mapping) or old_leaf not in renamed[group]:
            continue
        fields = dict(renamed[group])
        value = fields.pop(old_leaf)
        _refuse_two(old, value, new, fields.get(new_leaf, value))
        renamed[group] = {**fields, new_leaf: value}
    return renamed


def with_new_names(overrides: Iterable[str]) -> list[str]:
    """Returns `key=value` arguments with old keys renamed. Raises TrainError as `with_new_keys` does."""
    renamed: list[str] = []
    values: dict[str, tuple[str, str]] = {}  # new key -> (key as given, value)
    for override in overrides:
        key, _, value = override.partition("=")
        bare = key.lstrip("+~")
        new = RENAMED.get(bare, bare)
        if new in RENAMED.values():
            given, before = values.setdefault(new, (bare, value))
            if given != bare:
                _refuse_two(given, before, bare, value)
        renamed.append(override.replace(bare, new, 1))
    return renamed


def _refuse_two(key: str, value: Any, other: str, other_value: Any) -> None:
    if value != other_value:
        both = f"{key}={config_text(value)} and {other}={config_text(other_value)}"
        raise TrainError(f"{both} are two names of one key: give one of them")
