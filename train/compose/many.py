"""Composes many configs that differ in a few keys, as the members of a sweep do.

Hydra takes a tenth of a second for each. A key that is no group is set after all groups are chosen, so members with the
same options are composed once, and each sets its own values in a copy; most options can be exchanged in it, too
(exchange.py). What that cannot do, or refuses, Hydra composes as a whole, so that a mistake has the message that it has
everywhere.
"""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from common.errors import UserError
from train.compose.app import run_config_from, to_run_config
from train.compose.errors import explain
from train.compose.exchange import Exchange, exchange_of, with_interpolations, without_hydra
from train.compose.groups import CONFIG_FOLDER, groups
from train.config import RunConfig
from train.errors import TrainError


class Composer:
    """Composes the overrides that all members have, and then those of each."""

    def __init__(self, lines: Sequence[str]) -> None:
        self._lines = list(lines)
        self._groups = set(groups())
        self._exchanges: dict[tuple[str, ...], Exchange | None] = {}
        self._bases: dict[tuple[str, ...], DictConfig | None] = {}

    def config(self, point: Sequence[str], where: str) -> RunConfig:
        """Returns the config of a member. Raises TrainError, whose message ends with `where`."""
        try:
            return self._from_base(point) or to_run_config(without_hydra(self._compose(point)))
        except UserError as error:
            raise TrainError(f"{error}{where}") from error
        except Exception as error:  # Hydra's and OmegaConf's
            raise TrainError(f"{explain(error)}{where}") from error

    def _from_base(self, point: Sequence[str]) -> RunConfig | None:
        """Returns the config with the values of the point set in a copy; None if Hydra has to compose it."""
        overrides = OverridesParser.create().parse_overrides([*point])
        if any(one.type is not OverrideType.CHANGE or one.package is not None for one in overrides):
            return None
        if any("${" in line for line in point):  # what follows from another key may have a password
            return None
        chosen = {one.key_or_group: one.value() for one in overrides if one.key_or_group in self._groups}
        lines = [line for line, one in zip(point, overrides, strict=True) if one.key_or_group in self._groups]
        base = self._exchanged(chosen) or self._composed_once(tuple(lines))
        values = [one for one in overrides if one.key_or_group not in self._groups]
        return None if base is None else _with_values(base, values)

    def _exchanged(self, chosen: Mapping[str, Any]) -> DictConfig | None:
        """Returns a config without the values of a point, whose options are exchanged; None if they cannot be."""
        groups = tuple(chosen)
        if groups not in self._exchanges:
            self._exchanges[groups] = exchange_of(groups, self._compose)
        exchange = self._exchanges[groups]
        return None if exchange is None else exchange.with_options(chosen)

    def _composed_once(self, chosen: tuple[str, ...]) -> DictConfig | None:
        """Returns a config without the values of a point; None if there is none without them."""
        if chosen not in self._bases:
            try:
                self._bases[chosen] = with_interpolations(without_hydra(self._compose(chosen)))
            except Exception:  # a point may give what is missing or mend what is wrong
                self._bases[chosen] = None
        return self._bases[chosen]

    def _compose(self, point: Sequence[str]) -> DictConfig:
        """Returns a composed config, with Hydra's own part."""
        with initialize_config_dir(str(CONFIG_FOLDER), version_base="1.3"):
            return compose("config", [*self._lines, *point], return_hydra_config=True)


def _with_values(base: DictConfig, overrides: Sequence[Override]) -> RunConfig | None:
    if not overrides:
        return run_config_from(base)
    config = copy.deepcopy(base)
    try:
        for override in overrides:
            OmegaConf.update(config, override.key_or_group, override.value(), merge=True)
    except (OmegaConfBaseException, AssertionError, AttributeError):
        return None
    return run_config_from(config)
