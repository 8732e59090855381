"""Composes many configs that differ in a few keys, as the members of a sweep do.

Hydra takes a tenth of a second for each. A key that is no group is set after all groups are chosen, so members with the
same options are composed once, and each sets its own values in a copy. What that cannot do, or refuses, Hydra composes
as a whole, so that a mistake has the message that it has everywhere.
"""

import copy
from collections.abc import Sequence
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from common.errors import UserError
from report.comparison import flat
from train.compose.app import run_config_from, to_run_config, typed
from train.compose.errors import explain
from train.compose.groups import CONFIG_FOLDER, groups
from train.config import RunConfig
from train.errors import TrainError


class Composer:
    """Composes the overrides that all members have, and then those of each."""

    def __init__(self, lines: Sequence[str]) -> None:
        self._lines = list(lines)
        self._groups = set(groups())
        self._bases: dict[tuple[str, ...], DictConfig | None] = {}

    def config(self, point: Sequence[str], where: str) -> RunConfig:
        """Returns the config of a member. Raises TrainError, whose message ends with `where`."""
        try:
            return self._from_base(point) or to_run_config(self._compose(point))
        except UserError as error:
            raise TrainError(f"{error}{where}") from error
        except Exception as error:  # Hydra's and OmegaConf's
            raise TrainError(f"{explain(error)}{where}") from error

    def _from_base(self, point: Sequence[str]) -> RunConfig | None:
        """Returns the config with the values of the point set in a copy; None if Hydra has to compose it."""
        overrides = OverridesParser.create().parse_overrides([*point])
        if any(override.type is not OverrideType.CHANGE or override.package is not None for override in overrides):
            return None
        chosen = tuple(line for line, one in zip(point, overrides, strict=True) if one.key_or_group in self._groups)
        if chosen not in self._bases:
            self._bases[chosen] = self._base(chosen)
        base = self._bases[chosen]
        return None if base is None else _with_values(base, [one for one in overrides if not self._is_choice(one)])

    def _is_choice(self, override: Override) -> bool:
        return override.key_or_group in self._groups

    def _base(self, chosen: Sequence[str]) -> DictConfig | None:
        """Returns a config without the values of a point; None if there is none without them."""
        try:
            composed = self._compose(chosen)
            base = typed(composed)
            for key, value in flat(_as_dict(composed)).items():
                if "${" in str(value):  # it follows from another key, which a point may set
                    OmegaConf.update(base, key, value, merge=False)
            return base
        except Exception:  # a point may give what is missing or mend what is wrong
            return None

    def _compose(self, point: Sequence[str]) -> DictConfig:
        with initialize_config_dir(str(CONFIG_FOLDER), version_base="1.3"):
            return compose("config", [*self._lines, *point])


def _as_dict(composed: DictConfig) -> dict[str, Any]:
    """Returns a composed config as plain data, with its interpolations."""
    plain = OmegaConf.to_container(composed)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def _with_values(base: DictConfig, overrides: Sequence[Override]) -> RunConfig | None:
    config = copy.deepcopy(base)
    try:
        for override in overrides:
            OmegaConf.update(config, override.key_or_group, override.value(), merge=True)
    except (OmegaConfBaseException, AssertionError, AttributeError):
        return None
    return run_config_from(config)
