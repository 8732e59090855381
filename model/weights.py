"""Initial values of every parameter, by name: random, or from a Hugging Face checkpoint.

A `Weights` maps a parameter's name to its float32 value on the CPU. Each value depends on the name and the seed (or a
checkpoint) alone, so every world size, ZeRO stage and order of construction, meta device or not, starts from the same
model. Files are read one tensor at a time.
"""

import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from model.config import ModelConfig, PositionsConfig
from model.errors import ModelError
from model.hf_config import check_positions, listed, map_keys, precision_differences, size_problems
from model.positions import SCHEMES, layer_schemes
from model.transformer import Olmo2

logger = logging.getLogger(__name__)

Weights = Callable[[str], Tensor]
"""Maps the name of a parameter to its float32 value on the CPU."""

_HF_PARTS = {
    "attention": "self_attn",
    "post_attention_norm": "post_attention_layernorm",
    "post_feedforward_norm": "post_feedforward_layernorm",
}


def parameter_shapes(config: ModelConfig, positions: PositionsConfig) -> dict[str, tuple[int, ...]]:
    """Returns the shape of every parameter by name, in the model's own order. Raises ModelError."""
    with torch.device("meta"):
        return {name: tuple(parameter.shape) for name, parameter in Olmo2(config, positions).named_parameters()}


def hf_keys(config: ModelConfig, positions: PositionsConfig) -> dict[str, str]:
    """Returns the key of every parameter in a Hugging Face checkpoint, by our name. Raises ModelError."""
    return _hf_keys(parameter_shapes(config, positions), config, positions)


def _hf_keys(names: Iterable[str], config: ModelConfig, positions: PositionsConfig) -> dict[str, str]:
    maps = [map_keys(scheme, layer) for layer, scheme in enumerate(layer_schemes(positions, config.num_layers))]
    keys: dict[str, str] = {}
    for name in names:
        if name.startswith("layers."):
            _, layer, rest = name.split(".", 2)
            owner, _, leaf = rest.removesuffix(".weight").partition(".")
            part = ".".join(filter(None, (_HF_PARTS.get(owner, owner), leaf)))
            is_map = is_position_parameter(name)
            keys[name] = maps[int(layer)][leaf] if is_map else f"model.layers.{layer}.{part}.weight"
        else:
            keys[name] = name if name.startswith("lm_head.") else f"model.{name}"
    return keys


def is_position_parameter(name: str) -> bool:
    """Returns whether a parameter belongs to the maps of a learned position scheme."""
    return ".positions." in name


def random_weights(config: ModelConfig, positions: PositionsConfig, seed: int) -> Weights:
    """Returns norms of 1 and matrices from normal(0, initializer_range), cut at initializer_cutoff deviations.

    Maps that their position scheme names in `zero_maps` are 0.
    """
    return _random_weights(parameter_shapes(config, positions), config, positions, seed)


def _random_weights(
    shapes: Mapping[str, tuple[int, ...]], config: ModelConfig, positions: PositionsConfig, seed: int
) -> Weights:
    zero = {
        f"layers.{layer}.positions.{name}.weight"
        for layer, scheme in enumerate(layer_schemes(positions, config.num_layers))
        for name in scheme.zero_maps
    }
    bound = config.initializer_cutoff * config.initializer_range

    def weights(name: str) -> Tensor:
        if name.endswith("norm.weight"):
            return torch.ones(shapes[name])
        if name in zero:
            return torch.zeros(shapes[name])
        digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little", signed=True))
        value = torch.empty(shapes[name])
        return nn.init.trunc_normal_(value, 0.0, config.initializer_range, -bound, bound, generator)

    return weights


@dataclass(frozen=True)
class Source:
    """Weights that lie somewhere, by their Hugging Face keys, and what is said about them."""

    place: str
    """Where, for messages."""
    config: Mapping[str, Any]
    """What a config.json says, or would say."""
    shapes: Mapping[str, tuple[int, ...]]
    """The shape of every tensor."""
    read: Callable[[str], Tensor]
    """Returns a tensor, in the dtype that it is stored in."""
    generation: Mapping[str, Any] = field(default_factory=dict)
    """What a generation_config.json says; empty: there is none."""

    def eos_token_ids(self) -> list[Any]:
        """Returns what is given as end of a text, in config.json first, each once and not yet checked."""
        found: list[Any] = []
        for value in (said.get("eos_token_id") for said in (self.config, self.generation)):
            tokens = value if isinstance(value, list) and value else [value]
            found += [token for token in tokens if token is not None and token not in found]
        return found


def hf_weights(
    folder: str | Path, config: ModelConfig, positions: PositionsConfig, seed: int, *, is_conversion: bool = False
) -> Weights:
    """Returns the weights of a Hugging Face folder as `checked_weights` does. Raises ModelError as both do."""
    return checked_weights(open_hf(folder), config, positions, seed, is_conversion=is_conversion)


def open_hf(folder: str | Path) -> Source:
    """Opens a Hugging Face checkpoint: a folder with config.json and safetensors; no tensor is read yet.

    Raises ModelError that says in one line which file is absent or damaged.
    """
    folder = Path(folder)
    found = _files_by_key(folder)

    def read(key: str) -> Tensor:
        with _opened(found[key][0]) as tensors:
            value: Tensor = tensors.get_tensor(key)
        return value

    shapes = {key: shape for key, (_, shape) in found.items()}
    generation = folder / "generation_config.json"
    said = _read_json(generation) if generation.exists() else {}
    return Source(str(folder), _read_json(folder / "config.json"), shapes, read, said)


def checked_weights(
    source: Source, config: ModelConfig, positions: PositionsConfig, seed: int, *, is_conversion: bool = False
) -> Weights:
    """Returns the weights of a source, float32.

    It must be the model that is configured, its positions included. With `is_conversion`, a RoPE backbone becomes a
    model with other positions (the rule: model/hf_config.py): maps that it lacks come from `random_weights` with
    `seed`, and what changes is logged at level INFO.

    Raises ModelError, before any tensor is read, that lists every missing and unexpected key, every other shape and
    every disagreement with the configuration; later, where a tensor is read, as `finite`.
    """
    shapes = parameter_shapes(config, positions)
    keys = _hf_keys(shapes, config, positions)
    problems = size_problems(source.config, config)
    with_maps = True
    if source.config.get("num_hidden_layers") == config.num_layers:
        check = check_positions(source.config, source.shapes.keys(), config, positions, is_conversion)
        with_maps = check.has_same_layers
        problems += check.problems
        rounding = precision_differences(source.config, config, positions)
        changes = check.changes + (rounding + _dropped_ends(source, config) if is_conversion else [])
        problems += [] if is_conversion else rounding
        if changes and not problems:
            logger.info("%s: %s", source.place, "; ".join(changes))
    expected = {keys[name]: shape for name, shape in shapes.items()}
    problems += _key_problems(expected, source.shapes, _map_keys(config), with_maps)
    if problems:
        raise ModelError(f"{source.place} does not hold the model that is configured: {'; '.join(problems)}")
    fresh = _random_weights(shapes, config, positions, seed)

    def weights(name: str) -> Tensor:
        return finite(source, keys[name]).float() if keys[name] in source.shapes else fresh(name)

    return weights


def finite(source: Source, key: str) -> Tensor:
    """Returns a tensor as it is stored. Raises ModelError if it holds no numbers of a model: NaN, infinite or whole."""
    value = source.read(key)
    if not value.is_floating_point():
        raise ModelError(f"{source.place}: {key} is {str(value.dtype).removeprefix('torch.')}; floats were expected")
    if not value.float().isfinite().all():
        raise ModelError(f"{source.place}: {key} has values that are not finite; take weights from before that")
    return value


def initialise(model: nn.Module, weights: Weights, device: torch.device | str) -> None:
    """Moves `model` to `device`, allocating it if it is on the meta device, and sets every parameter."""
    if any(parameter.is_meta for parameter in model.parameters()):
        # Not `to_empty`: it makes tensors like those on the meta device, which loads parts of torch's compiler.
        model._apply(lambda t: torch.empty(t.shape, dtype=t.dtype, device=device))
    else:
        model.to(device)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(weights(name))


def _files_by_key(folder: Path) -> dict[str, tuple[Path, tuple[int, ...]]]:
    """Returns (file, shape) of every tensor by its key. Raises ModelError."""
    if not folder.is_dir():
        raise ModelError(f"{folder} is not a folder; give one with config.json and safetensors")
    index, single = folder / "model.safetensors.index.json", folder / "model.safetensors"
    weight_map = _weight_map(index) if index.exists() else {}
    if index.exists():
        files = sorted({folder / name for name in weight_map.values()})
    else:
        files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ModelError(f"{folder} holds no .safetensors file; give a Hugging Face checkpoint folder")
    found: dict[str, tuple[Path, tuple[int, ...]]] = {}
    for file in files:
        with _opened(file) as tensors:
            for key in tensors.keys():  # noqa: SIM118 - a handle, not a dict: it cannot be iterated
                if key in found:
                    raise ModelError(f"{key} is in {found[key][0].name} and in {file}: remove the file that is wrong")
                found[key] = (file, tuple(tensors.get_slice(key).get_shape()))
    if weight_map and single.exists() and single not in files:
        raise ModelError(f"{index} does not name {single.name} beside it, which other readers take: remove one of them")
    return found


def _weight_map(index: Path) -> dict[str, str]:
    weight_map = _read_json(index).get("weight_map")
    if not isinstance(weight_map, dict):
        raise ModelError(f"{index} has no weight_map; download or write it again")
    for name in weight_map.values():
        if not isinstance(name, str) or Path(name).name != name:
            raise ModelError(f"{index} names {name!r}, which is no file of its folder; download or write it again")
    return weight_map


def _opened(file: Path) -> safe_open:
    try:
        return safe_open(file, framework="pt")
    except FileNotFoundError:
        raise ModelError(f"{file} is named by the index but absent; download the checkpoint again") from None
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{file} cannot be read ({error}); download or write it again") from None


def _read_json(file: Path) -> dict:
    try:
        return dict(json.loads(file.read_text()))
    except FileNotFoundError:
        raise ModelError(f"{file} is absent; give a whole Hugging Face checkpoint folder") from None
    except (ValueError, TypeError, RecursionError) as error:  # TypeError: JSON, but no object
        raise ModelError(f"{file} is not valid JSON ({error}); download or write it again") from None


def _dropped_ends(source: Source, config: ModelConfig) -> list[str]:
    """Returns a sentence on the tokens that end a text of the source, but none of the model, or none."""
    if dropped := [token for token in source.eos_token_ids() if token not in config.eos_token_ids]:
        keys = ",".join(map(str, [*config.other_eos_token_ids, *dropped]))
        return [f"texts also end with {listed(map(str, dropped))}: set model.other_eos_token_ids=[{keys}] to keep this"]
    return []


def _map_keys(config: ModelConfig) -> set[str]:
    """Returns the keys that any scheme's maps can have."""
    layers = range(config.num_layers)
    return {key for scheme in SCHEMES.values() for layer in layers for key in map_keys(scheme, layer).values()}


def _key_problems(
    expected: dict[str, tuple[int, ...]],
    found: Mapping[str, tuple[int, ...]],
    map_keys: set[str],
    with_maps: bool,
) -> list[str]:
    """Returns what is wrong with the keys; of positions only `with_maps`: elsewhere the layers differ anyway."""
    ignored = set() if with_maps else map_keys
    other = [
        f"{key} is {list(found[key])} and not {list(shape)}"
        for key, shape in expected.items()
        if key in found and found[key] != shape
    ]
    groups = (
        ("missing keys", sorted(expected.keys() - found.keys() - ignored)),
        ("unexpected keys", sorted(found.keys() - expected.keys() - ignored)),
        ("other shapes", other),
    )
    return [f"{len(items)} {title} ({listed(items)})" for title, items in groups if items]
