"""Exchanges the options of groups in a composed config, so that members with other options are not composed again.

Hydra composes one config, in which each group that varies has an option of our own that sets every key of its options
to a mark. Where a mark is left, the option decides; another value comes from something that is later than the option,
an experiment or an argument, and stays whatever the option. So the config with any option has that option's values in
place of the marks, and those of the dataclass where the option has none. Where this does not follow, as with an option
that sets keys of another group, there is no exchange, and Hydra composes each.
"""

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from data.fetch.credentials import without_credentials
from report.comparison import flat
from train.compose.app import typed
from train.compose.groups import CONFIG_FOLDER, DATACLASS_OPTIONS, options, outside_files, schema

OPTION = "any-option-of-the-sweep"
MARK = "${any.option.of.the.sweep}"
SELF = "_self_"
PLAIN_NAME = re.compile(r"[\w.-]+")

Compose = Callable[[Sequence[str]], DictConfig]
"""Composes a config, with Hydra's own part, from arguments that come after those of all members."""


class Exchange:
    """A config whose options of some groups can be exchanged."""

    def __init__(self, composed: DictConfig, values: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> None:
        self._composed = composed
        self._plain = plain(composed)
        self._values = values
        self._marked = [key for key, value in self._plain.items() if value == MARK]
        self._config: DictConfig | None = None

    def with_options(self, chosen: Mapping[str, Any]) -> DictConfig | None:
        """Returns the config with an option of each group, as `typed` does, valid until the next call.

        Values that follow from another key are interpolations. Returns None for an option that cannot be exchanged.
        """
        own: dict[str, Any] = {}
        for group, option in chosen.items():
            values = self._values[group].get(option) if isinstance(option, str) else None
            if values is None:
                return None
            own |= values
        decided = {key: own[key] if key in own else _of_dataclasses()[key] for key in self._marked}
        try:
            if self._config is None:
                _set(self._composed, decided)
                self._config = with_interpolations(self._composed)
            _set(self._config, decided)  # all that the last options decided
        except (OmegaConfBaseException, ValueError):
            return None
        return self._config


def exchange_of(groups: Sequence[str], compose: Compose) -> Exchange | None:
    """Returns the exchange of the options of these groups; None if what an option changes is not certain."""
    values = {group: _options_of(group) for group in groups}
    if not all(values.values()):
        return None
    for group, of_options in values.items():
        keys = {key.removeprefix(f"{group}."): MARK for own in of_options.values() for key in own}
        ConfigStore.instance().store(group=group, name=OPTION, node=_nested(keys))
    try:
        composed = compose([f"{group}={OPTION}" for group in groups])
    except Exception:  # Hydra composes each, and says what is wrong
        return None
    choices = composed.hydra.runtime.choices
    if not all(_stays_in_group(str(group), choices[group]) for group in choices):
        return None
    return Exchange(without_hydra(composed), values)


def without_hydra(composed: DictConfig) -> DictConfig:
    """Returns a composed config after it has lost Hydra's own part."""
    with open_dict(composed):
        del composed["hydra"]
    return composed


def with_interpolations(composed: DictConfig) -> DictConfig:
    """Returns what `typed` does, but with the interpolations: a member may set the key that one follows from.

    Raises ValueError if one gives a password, which `typed` takes out of what it gives.
    """
    config = typed(composed)
    for key, value in plain(composed).items():
        if "${" in str(value):
            resolved = str(OmegaConf.to_container(composed, resolve=True))
            if without_credentials(resolved) != resolved:
                raise ValueError(f"{key} has a password")
            OmegaConf.update(config, key, value, merge=False)
    return config


def plain(composed: DictConfig) -> dict[str, Any]:
    """Returns the values of all keys, with interpolations as they are."""
    values = OmegaConf.to_container(composed)
    assert isinstance(values, dict)
    return flat({str(key): value for key, value in values.items()})


def _set(config: DictConfig, values: Mapping[str, Any]) -> None:
    for key, value in values.items():
        OmegaConf.update(config, key, value, merge=False)


@functools.cache
def _of_dataclasses() -> dict[str, Any]:
    """Returns the default of each key."""
    return plain(schema())


def _options_of(group: str) -> dict[str, dict[str, Any]]:
    """Returns the keys and values of each option that can be exchanged; none of a group without a dataclass."""
    if "/" in group or group not in DATACLASS_OPTIONS:
        return {}
    known = {option: _values_of(group, option) for option in options(group)}
    return {option: values for option, values in known.items() if values is not None}


def _values_of(group: str, option: str) -> dict[str, Any] | None:
    """Returns the keys and values of an option; None if it does more than to give keys of the dataclass a value."""
    if option == DATACLASS_OPTIONS[group][0]:
        return {}
    path = _path(group, option)
    if not path.is_file() or not _stays_in_group(group, option):
        return None
    own = OmegaConf.to_container(OmegaConf.load(path))
    assert isinstance(own, dict)
    values: dict[str, Any] = {}
    for name in own.pop("defaults", [SELF]):
        more = flat({group: own}) if name == SELF else _values_of(group, name)
        if more is None:
            return None
        values |= more
    known = _of_dataclasses()
    return values if all(key in known and _is_plain(values[key]) and _is_plain(known[key]) for key in values) else None


def _is_plain(value: Any) -> bool:
    """Returns whether a value replaces another whole, whatever it was."""
    if isinstance(value, list):
        return all(_is_plain(part) for part in value)
    return not isinstance(value, dict) and "${" not in str(value) and value != MISSING


def _stays_in_group(group: str, option: str | None) -> bool:
    """Returns whether an option sets no key of another group before its option does. An experiment does so after it."""
    if option is None or option == OPTION or group == "experiment" or group.startswith("hydra/"):
        return True
    if group in DATACLASS_OPTIONS and option == DATACLASS_OPTIONS[group][0]:
        return True
    path = _path(group, option)
    text = path.read_text() if path.is_file() else "@package"
    if "@" in group or "@package" in text:
        return False
    if "defaults" not in text:
        return True
    file = OmegaConf.create(text)
    names = file.get("defaults", []) if isinstance(file, DictConfig) else [None]
    return all(
        isinstance(name, str) and PLAIN_NAME.fullmatch(name) and (name == SELF or _stays_in_group(group, name))
        for name in names
    )


def _path(group: str, option: str) -> Path:
    return outside_files().get(f"{group}/{option}", CONFIG_FOLDER / group / f"{option}.yaml")


def _nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns dotted keys as dicts in dicts."""
    nested: dict[str, Any] = {}
    for key, value in values.items():
        *owners, name = key.split(".")
        place = nested
        for owner in owners:
            place = place.setdefault(owner, {})
        place[name] = value
    return nested
