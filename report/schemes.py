"""What a run's config says about learned positions: whether a layer learns them, and the maps that make them.

It reads the plain config of a run folder, which may be missing or of another version: what a config does not say is not
denied.
"""

from collections.abc import Mapping
from typing import Any

from model.config import PositionsConfig
from model.errors import ModelError
from model.positions import SCHEMES, learned_layers
from model.positions.base import PositionScheme


def learns_positions(config: Mapping[str, Any]) -> bool:
    """Returns whether some layer learns its positions; True if the config does not say which positions there are."""
    schemes = _learned_schemes(config)
    return schemes is None or bool(schemes)


def map_symbols(config: Mapping[str, Any]) -> dict[str, str]:
    """Returns the maps of the run's learned schemes, name -> symbol; those of all schemes if the config names none."""
    schemes = _learned_schemes(config)
    if schemes is None:
        schemes = [scheme for scheme in SCHEMES.values() if scheme.is_learned]
    return {name: symbol for scheme in schemes for name, symbol in scheme.symbols.items()}


def _learned_schemes(config: Mapping[str, Any]) -> list[type[PositionScheme]] | None:
    """Returns each learned scheme once, or None if the config does not say which layer has which."""
    try:
        stated = config["positions"]
        start, layers = stated.get("start_layer"), stated.get("layers")
        # Any number of layers that fits tells which schemes there are, where the config has lost it.
        num_layers = config.get("model", {}).get("num_layers") or len(layers or ()) or (start or 0) + 3
        positions = PositionsConfig(scheme=stated["scheme"], start_layer=start, layers=layers)
        return list(dict.fromkeys(learned_layers(positions, num_layers).values()))
    except (KeyError, TypeError, AttributeError, ModelError):
        return None
