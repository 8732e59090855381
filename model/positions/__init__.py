"""Position schemes: the registry of what there is, and which layer gets which. Importing it needs no torch.

A scheme is one file in this folder with a subclass of `PositionScheme`; it is found by itself. Apart from it, a scheme
needs a file in `configs/positions/` if it shall have a short name on the command line.
"""

import difflib
import importlib
import inspect
import pkgutil
from collections.abc import Iterable, Sequence

from model.config import ModelConfig, PositionsConfig
from model.errors import ModelError, require
from model.positions.base import PositionScheme, refuse_start_layer

BACKBONE = "rope"
"""The scheme of plain OLMo-2: what a checkpoint has that says nothing about positions."""

PATTERNS: dict[str, tuple[str, ...]] = {
    "r2n1": ("rope", "rope", "nope"),
    "n2r1": ("nope", "nope", "rope"),
}
"""Values of `positions.scheme` that repeat several schemes from the bottom up."""

LIST = "list"
"""The value of `positions.scheme` under which `positions.layers` says it layer by layer."""

_WITHOUT_SCHEMES = ("base", "module")  # files of this folder; the latter needs torch


def _discovered() -> dict[str, type[PositionScheme]]:
    found: dict[str, type[PositionScheme]] = {}
    for info in pkgutil.iter_modules(__path__):
        if info.name in _WITHOUT_SCHEMES:
            continue
        module = importlib.import_module(f"{__name__}.{info.name}")
        for _, kind in inspect.getmembers(module, inspect.isclass):
            if kind.__module__ != module.__name__ or not issubclass(kind, PositionScheme) or inspect.isabstract(kind):
                continue
            if kind.name in (*found, *PATTERNS, LIST):
                raise TypeError(f"{module.__name__}.{kind.__name__}: the name {kind.name!r} is taken")
            found[kind.name] = kind
    return dict(sorted(found.items()))


SCHEMES: dict[str, type[PositionScheme]] = _discovered()
"""Every position scheme by name."""


def scheme_class(name: str) -> type[PositionScheme]:
    """Returns the scheme of this name. Raises ModelError that lists what there is."""
    require(name in SCHEMES, f"the position scheme {name!r} does not exist: {_choices(name, SCHEMES)}")
    return SCHEMES[name]


def layer_schemes(positions: PositionsConfig, num_layers: int) -> tuple[type[PositionScheme], ...]:
    """Returns the scheme of each layer, bottom first; nothing else decides it.

    Raises ModelError, naming the key, its value and the remedy, if the config does not fit `num_layers`.
    """
    positions.validate()
    return tuple(SCHEMES[name] for name in _layer_names(positions, num_layers))


def build_schemes(model: ModelConfig, positions: PositionsConfig) -> tuple[PositionScheme, ...]:
    """Returns a scheme for each layer, bottom first. Raises ModelError if the configs do not fit each other."""
    return tuple(scheme(model, positions) for scheme in layer_schemes(positions, model.num_layers))


def learned_layers(positions: PositionsConfig, num_layers: int) -> dict[int, type[PositionScheme]]:
    """Returns the layers, from 0, whose positions are learned, each with its scheme. Raises as `layer_schemes`."""
    return {layer: scheme for layer, scheme in enumerate(layer_schemes(positions, num_layers)) if scheme.is_learned}


def positions_for(names: Sequence[str]) -> PositionsConfig:
    """Returns the shortest way to give layers these schemes, bottom first."""
    for scheme in (*SCHEMES, *PATTERNS):
        for start in (None, *range(len(names))):
            positions = PositionsConfig(scheme=scheme, start_layer=start)
            try:
                found = layer_schemes(positions, len(names))
            except ModelError:
                continue
            if [kind.name for kind in found] == list(names):
                return positions
    return PositionsConfig(scheme=LIST, layers=list(names))


def overrides_for(names: Sequence[str], positions: PositionsConfig) -> str:
    """Returns the `key=value` arguments that give layers these schemes, bottom first, instead of `positions`'."""
    wanted = positions_for(names)
    if wanted.layers is not None:
        return f"positions.scheme={LIST} positions.start_layer=null 'positions.layers=[{','.join(wanted.layers)}]'"
    start = "null" if wanted.start_layer is None else wanted.start_layer
    without_list = "" if positions.layers is None else " positions.layers=null"
    return f"positions.scheme={wanted.scheme} positions.start_layer={start}{without_list}"


def _layer_names(positions: PositionsConfig, num_layers: int) -> tuple[str, ...]:
    scheme, layers = positions.scheme, positions.layers
    known = (*SCHEMES, *PATTERNS, LIST)
    require(scheme in known, f"positions.scheme={scheme} does not exist: {_choices(scheme, known)}")
    require(
        (layers is not None) == (scheme == LIST),
        f"positions.layers is {'null' if layers is None else 'set'} and positions.scheme is {scheme}; "
        f"list the layers with scheme={LIST}, and leave them null otherwise",
    )
    if scheme in SCHEMES:
        return SCHEMES[scheme].layers(positions.start_layer, num_layers)
    refuse_start_layer(scheme, positions.start_layer)
    if scheme in PATTERNS:
        period = PATTERNS[scheme]
        return tuple(period[layer % len(period)] for layer in range(num_layers))
    names = tuple(layers or ())
    for name in names:
        require(name in SCHEMES, f"positions.layers names {name}, which does not exist: {_choices(name, SCHEMES)}")
    require(
        len(names) == num_layers,
        f"positions.layers lists {len(names)} layers but model.num_layers is {num_layers}; list one each",
    )
    return names


def _choices(name: str, known: Iterable[str]) -> str:
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1)
    return f"choose one of {', '.join(known)}" + (f"; did you mean {close[0]!r}?" if close else "")
