"""What a Hugging Face config.json says about a model: written for an export, held against the config at an import.

Positions are described by `layer_positions`, one scheme per layer, and, where the published vocabulary reaches, by
`pe_config` (SakanaAI/repo). The published readers look for its misspelled keys `dynmaic_pe_start_layer` and
`dynmaic_pe_layer_ids` only, so both spellings are written, and both are read. A file with neither is a plain OLMo-2:
RoPE in every layer, except where its tensors include the maps of a learned scheme.

The rule of an import. What a file says and what is configured must be the same in every layer, and YaRN must be the
same. One difference is allowed where a run begins from a backbone (`is_conversion`): a file that is RoPE in every layer
may get other positions, with fresh maps where they are learned, and a file without YaRN may get it. That is how the
paper makes RePo and its NoPE, R2N1 and N2R1 baselines. No file says whether it is meant as a backbone, so the caller
does: training from `init_from` converts, and reports what changes; all else loads.
"""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from model.config import ModelConfig, PositionsConfig
from model.errors import ModelError, require
from model.hf_yarn import compare_yarn, file_yarn
from model.positions import BACKBONE, SCHEMES, layer_schemes, overrides_for
from model.positions.base import PositionScheme

REMOTE_MODEL_TYPE = "repo_olmo2"
"""The `model_type` of folders that carry the code of their positions."""

_SPELLINGS = ("dynmaic_pe", "dynamic_pe")  # the first is the one that published readers look for
_NUM_LISTED = 8  # names in an error message before the rest is only counted


def hf_config(
    config: ModelConfig, positions: PositionsConfig, dtype: str, max_position_embeddings: int = 4096
) -> dict[str, Any]:
    """Returns the content of config.json; `dtype` as in `float32` or `bfloat16`. Raises ModelError."""
    schemes = layer_schemes(positions, config.num_layers)
    description: dict[str, Any] = {
        "architectures": ["Olmo2ForCausalLM"],
        **_sizes(config),
        "hidden_act": "silu",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "max_position_embeddings": max_position_embeddings,
        "rope_scaling": None,
        "initializer_range": config.initializer_range,
        "bos_token_id": None,
        "eos_token_id": config.eos_token_ids if config.other_eos_token_ids else config.eos_token_id,
        "pad_token_id": config.pad_token_id,
        "torch_dtype": dtype,
    }
    if (yarn := positions.yarn) is not None:
        # Readers differ on whether the factor is stated or inferred from these lengths: make both say the same.
        description["max_position_embeddings"] = round(yarn.factor * yarn.original_max_position)
        description["rope_scaling"] = {
            "rope_type": "yarn",
            "factor": yarn.factor,
            "original_max_position_embeddings": yarn.original_max_position,
            "beta_fast": yarn.beta_fast,
            "beta_slow": yarn.beta_slow,
        }
    others = {scheme for scheme in schemes if scheme.name != BACKBONE}
    if others:
        description["layer_positions"] = [scheme.name for scheme in schemes]
    if len(others) == 1 and (mode := others.pop().published_mode) is not None:
        description["pe_config"] = _pe_config(mode, schemes)
    return description


def map_keys(scheme: type[PositionScheme], layer: int) -> dict[str, str]:
    """Returns the Hugging Face keys of a layer's position maps, by map name."""
    return {name: f"model.layers.{layer}.{part}.weight" for name, part in scheme.hf_names.items()}


def size_problems(saved: Mapping[str, Any], config: ModelConfig) -> list[str]:
    """Returns a sentence, or none, on every size in which a config.json differs from the configured backbone."""
    found: dict[str, Any] = {"tie_word_embeddings": False, "hidden_act": "silu"}
    rope = saved.get("rope_parameters")
    newer = rope.get("rope_theta") if isinstance(rope, dict) else None
    found |= {"rope_theta": newer, **saved}
    if newer is not None and saved.get("rope_theta") not in (None, newer):
        found["rope_theta"] = f"{saved['rope_theta']} in one place and {newer} in rope_parameters"
    elif found["rope_theta"] is None:
        found["rope_theta"] = newer
    if found.get("num_key_value_heads") is None:
        found["num_key_value_heads"] = found.get("num_attention_heads")
    different = [
        f"{key} {json.dumps(found.get(key))} and not {json.dumps(value)}"
        for key, value in _sizes(config).items()
        if found.get(key) != value and (key, found.get(key)) != ("model_type", REMOTE_MODEL_TYPE)
    ]
    different += _other_arithmetic(saved, config)
    return [f"config.json has {listed(different)}"] if different else []


def _other_arithmetic(saved: Mapping[str, Any], config: ModelConfig) -> list[str]:
    """Returns what a config.json says about a model that none is here, and that its tensors need not show."""
    rope = saved.get("rope_parameters")
    rotated = (rope if isinstance(rope, dict) else saved).get("partial_rotary_factor")
    meant = {
        "attention_bias": (saved.get("attention_bias"), False),
        "head_dim": (saved.get("head_dim"), config.head_dim),
        "partial_rotary_factor": (rotated, 1.0),
        "quantization_config": (saved.get("quantization_config"), None),
        "clip_qkv": (saved.get("clip_qkv"), None),
        "sliding_window": (saved.get("sliding_window"), None),
        "layer_types": (_distinct(saved.get("layer_types")), ["full_attention"]),
    }
    return [
        f"{key} {json.dumps(found)} and not {json.dumps(wanted)}"
        for key, (found, wanted) in meant.items()
        if found is not None and found != wanted
    ]


def _distinct(values: Any) -> Any:
    """Returns the values of a list, each once; anything else as it is."""
    if not isinstance(values, list):
        return values
    return [value for index, value in enumerate(values) if value not in values[:index]]


def precision_differences(saved: Mapping[str, Any], config: ModelConfig, positions: PositionsConfig) -> list[str]:
    """Returns what a config.json says about the rounding of positions and norms that is configured otherwise.

    Only our own exports that carry their code say it.
    """
    configured = {
        "position_precision": ("positions.precision", positions.precision.value),
        "norm_precision": ("model.norm_precision", config.norm_precision.value),
    }
    return [
        f"config.json has {key} {saved[key]}, but {name} is {value}: set {name}={saved[key]}"
        for key, (name, value) in configured.items()
        if key in saved and saved[key] != value
    ]


@dataclass(frozen=True)
class PositionCheck:
    """How the positions of a checkpoint compare with those that are configured."""

    problems: list[str]
    """Contradictions, each with both values and what to type; none: the checkpoint can be used."""
    changes: list[str]
    """What a conversion changes."""
    has_same_layers: bool
    """Whether every layer has the configured scheme. Otherwise its maps, if it has any, are not the checkpoint's."""


def check_positions(
    saved: Mapping[str, Any],
    keys: Collection[str],
    config: ModelConfig,
    positions: PositionsConfig,
    is_conversion: bool,
) -> PositionCheck:
    """Compares a config.json and the keys of its tensors with the configured positions, by the rule above.

    Raises ModelError if the positions are not configured for `config.num_layers`.
    """
    wanted = [scheme.name for scheme in layer_schemes(positions, config.num_layers)]
    try:
        source, names = file_layers(saved, keys, config.num_layers)
        yarn = file_yarn(saved)
    except ModelError as error:
        return PositionCheck([str(error)], [], False)
    problems, changes = compare_yarn(yarn, positions.yarn, is_conversion)
    width, has_maps = config.hidden_size // positions.hidden_divisor, any(SCHEMES[name].is_learned for name in names)
    if names == wanted and has_maps and saved.get("repo_width") not in (None, width):
        problems.append(
            f"config.json has repo_width {saved['repo_width']!r}, but model.hidden_size and positions.hidden_divisor "
            f"give {width}"
        )
    if names != wanted and is_conversion and set(names) == {BACKBONE}:
        replaced = [layer for layer, name in enumerate(wanted) if name != BACKBONE]
        fresh = ", with fresh maps" if any(SCHEMES[name].is_learned for name in wanted) else ""
        changes.append(
            f"{len(replaced)} of {len(wanted)} layers change from {BACKBONE} to {_in_words(wanted, replaced)}{fresh}"
        )
    elif names != wanted:
        problems.append(
            f"{source} has {_in_words(names)}, but positions.scheme={positions.scheme} gives {_in_words(wanted)}: "
            f"set {overrides_for(names, positions)}"
        )
    return PositionCheck(problems, changes, names == wanted)


def listed(items: Iterable[str]) -> str:
    """Returns the first few items, and how many more there are."""
    items = list(items)
    rest = f", ... {len(items) - _NUM_LISTED} more" if len(items) > _NUM_LISTED else ""
    return ", ".join(items[:_NUM_LISTED]) + rest


def _sizes(config: ModelConfig) -> dict[str, Any]:
    """Returns what a config.json must agree with."""
    return {
        "model_type": "olmo2",
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.key_value_heads,
        "rope_theta": config.rope_theta,
        "rms_norm_eps": config.rms_norm_eps,
        "tie_word_embeddings": False,
        "hidden_act": "silu",
    }


def _pe_config(mode: str, schemes: Sequence[type[PositionScheme]]) -> dict[str, Any]:
    """Returns the published description of layers that are RoPE or one other scheme, from a start layer or listed."""
    special = [layer for layer, scheme in enumerate(schemes) if scheme.name != BACKBONE]
    start = special[0]
    reaches_top = special == list(range(start, len(schemes)))
    layer_ids = "" if reaches_top else ",".join(map(str, special))
    description: dict[str, Any] = {"dynamic_pe_mode": mode}
    for spelling in reversed(_SPELLINGS):
        description |= {f"{spelling}_start_layer": start, f"{spelling}_layer_ids": layer_ids}
    return description


def file_layers(saved: Mapping[str, Any], keys: Collection[str], num_layers: int) -> tuple[str, list[str]]:
    """Returns what in a checkpoint says which layer has which scheme, and those. Raises ModelError if it is unclear."""
    of_maps = _schemes_of_maps(keys, num_layers)
    said: dict[str, list[str]] = {}
    if (layer_positions := saved.get("layer_positions")) is not None:
        said["config.json's layer_positions"] = _checked_layers(layer_positions, num_layers)
    if (pe_config := saved.get("pe_config")) is not None:
        said[f"config.json's pe_config ({_spelled_out(pe_config)})"] = _published_layers(pe_config, num_layers)
    if not said:
        names = [min(schemes, default=BACKBONE) for schemes in of_maps]
        return "the checkpoint, whose config.json has no layer_positions and no pe_config,", names
    (source, names), *others = said.items()
    for other, other_names in others:
        require(
            names == other_names,
            f"{source} has {_in_words(names)}, but {other} has {_in_words(other_names)}: correct the wrong one",
        )
    pairs = zip(names, of_maps, strict=True)
    if any(name not in schemes if SCHEMES[name].is_learned else schemes for name, schemes in pairs):
        with_maps = [layer for layer, schemes in enumerate(of_maps) if schemes]
        raise ModelError(
            f"{source} has {_in_words(names)}, but the tensors have position maps in "
            f"{_layers_in_words(with_maps) if with_maps else 'no layer'}: use the config.json of these tensors"
        )
    return source, names


def _schemes_of_maps(keys: Collection[str], num_layers: int) -> list[set[str]]:
    """Returns for each layer the learned schemes of which it has a map."""
    return [
        {name for name, scheme in SCHEMES.items() if any(key in keys for key in map_keys(scheme, layer).values())}
        for layer in range(num_layers)
    ]


def _checked_layers(layer_positions: Any, num_layers: int) -> list[str]:
    """Returns `layer_positions`. Raises ModelError unless it names a scheme for each layer."""
    is_complete = isinstance(layer_positions, list) and len(layer_positions) == num_layers
    require(
        is_complete,
        f"config.json's layer_positions is {json.dumps(layer_positions)}; it must list {num_layers} schemes",
    )
    for name in layer_positions:
        require(
            isinstance(name, str) and name in SCHEMES,
            f"config.json's layer_positions names {json.dumps(name)}, which is no position scheme here: "
            f"there are {', '.join(SCHEMES)}",
        )
    return list(layer_positions)


def _published_layers(pe_config: Any, num_layers: int) -> list[str]:
    """Returns the layers that a `pe_config` describes. Raises ModelError if no scheme here is what it says."""
    require(isinstance(pe_config, dict), f"config.json's pe_config is {json.dumps(pe_config)}; it must be an object")
    mode, text = pe_config.get("dynamic_pe_mode"), _spelled_out(pe_config)
    modes = {scheme.published_mode: name for name, scheme in SCHEMES.items() if scheme.published_mode is not None}
    require(
        isinstance(mode, str) and mode in modes,
        f"config.json's pe_config has {text}: of its modes there are here {', '.join(modes)}",
    )
    start, layer_ids = _either(pe_config, "start_layer"), _either(pe_config, "layer_ids")
    try:
        first = _layer(start) if start not in (None, "") else 0
        listed_layers = "" if layer_ids is None else str(layer_ids)
        layers = {int(layer) for layer in listed_layers.split(",") if layer.strip()} or set(range(num_layers))
    except (TypeError, ValueError):
        raise ModelError(f"config.json's pe_config has {text}; a layer and a list of layers were expected") from None
    return [modes[mode] if layer >= first and layer in layers else BACKBONE for layer in range(num_layers)]


def _layer(value: Any) -> int:
    """Returns a layer that may be given as 1, 1.0 or "1". Raises TypeError or ValueError for anything else."""
    if isinstance(value, bool) or (isinstance(value, float) and not value.is_integer()):
        raise ValueError
    return int(value)


def _either(pe_config: Mapping[str, Any], key: str) -> Any:
    """Returns a value that may be there in both spellings. Raises ModelError if they differ."""
    found = [pe_config[f"{spelling}_{key}"] for spelling in _SPELLINGS if f"{spelling}_{key}" in pe_config]
    require(
        all(value == found[0] for value in found),
        f"config.json's pe_config has {_spelled_out(pe_config)}: make both spellings the same",
    )
    return found[0] if found else None


def _spelled_out(pe_config: Any) -> str:
    """Returns what a `pe_config` says about layers: "dynamic_pe_mode nope, dynmaic_pe_layer_ids 2,5"."""
    if not isinstance(pe_config, dict):
        return json.dumps(pe_config)
    keys = (
        "dynamic_pe_mode",
        *(f"{spelling}_{key}" for spelling in _SPELLINGS for key in ("start_layer", "layer_ids")),
    )
    said = {key: pe_config[key] for key in keys if pe_config.get(key) not in (None, "")}
    no_mode = [] if keys[0] in said else [f"no {keys[0]}"]
    pairs = (f"{key} {value if isinstance(value, str) else json.dumps(value)}" for key, value in said.items())
    return ", ".join([*no_mode, *pairs])


def describe_layers(schemes: Iterable[type[PositionScheme]]) -> str:
    """Returns which layers have which scheme: "rope in layers 0-4, repo in layers 5-15"."""
    return _in_words([scheme.name for scheme in schemes])


def _in_words(names: Sequence[str], layers: Sequence[int] | None = None) -> str:
    """Returns which of the layers have which scheme: "rope in layers 0-4, repo in layers 5-15"."""
    layers = range(len(names)) if layers is None else layers
    by_name: dict[str, list[int]] = {}
    for layer in layers:
        by_name.setdefault(names[layer], []).append(layer)
    if len(by_name) == 1 and len(layers) == len(names):
        return f"{names[0]} in every layer"
    return ", ".join(f"{name} in {_layers_in_words(of_name)}" for name, of_name in by_name.items())


def _layers_in_words(layers: Sequence[int]) -> str:
    """Returns "layer 3" or "layers 0-4,7"."""
    ranges: list[list[int]] = []
    for layer in layers:
        if ranges and layer == ranges[-1][1] + 1:
            ranges[-1][1] = layer
        else:
            ranges.append([layer, layer])
    text = ",".join(str(first) if first == last else f"{first}-{last}" for first, last in ranges)
    return f"layer{'s' * (len(layers) > 1)} {text}"
