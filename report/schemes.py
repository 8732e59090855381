"""What a run's config says about learned positions: whether a layer learns them, and the maps that make them.

The only file of this package that knows names of position schemes. It reads the plain config of a run folder, which may
be missing or of another version: what a config does not say is not denied.
"""

from collections.abc import Mapping
from typing import Any

LEARNED: dict[str, dict[str, str]] = {"repo": {"gate": "W_g", "content": "W_c", "final": "W_z"}}
"""Learned scheme -> its maps: name in metrics and in the module -> symbol in formulas."""


def learns_positions(config: Mapping[str, Any]) -> bool:
    """Returns whether some layer learns its positions; True if the config does not say which positions there are."""
    named = _named_schemes(config)
    return named is None or any(name in LEARNED for name in named)


def map_symbols(config: Mapping[str, Any]) -> dict[str, str]:
    """Returns the maps of the run's learned schemes, name -> symbol; those of all schemes if the config names none."""
    named = _named_schemes(config)
    schemes = LEARNED if named is None else [name for name in LEARNED if name in named]
    return {name: symbol for scheme in schemes for name, symbol in LEARNED[scheme].items()}


def _named_schemes(config: Mapping[str, Any]) -> list[Any] | None:
    positions = config.get("positions")
    if not isinstance(positions, Mapping) or positions.get("scheme") is None:
        return None
    layers = positions.get("layers")
    return [positions["scheme"], *(layers if isinstance(layers, list) else [])]
