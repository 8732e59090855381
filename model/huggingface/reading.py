"""The model that a source holds, from what it says itself: for an import, and for generating from a folder."""

from typing import Any

from model.config import ModelConfig, NormPrecision, PositionPrecision, PositionsConfig, YarnConfig
from model.errors import ModelError, require
from model.hf_config import file_layers, map_keys
from model.hf_yarn import file_yarn
from model.positions import SCHEMES, build_schemes, positions_for
from model.weights import Source

_SIZES = {
    "vocab_size": "vocab_size",
    "hidden_size": "hidden_size",
    "intermediate_size": "intermediate_size",
    "num_layers": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "rms_norm_eps": "rms_norm_eps",
}  # field of ModelConfig -> key of a config.json, all of them needed


def read_configs(source: Source) -> tuple[ModelConfig, PositionsConfig]:
    """Returns the configs that describe a source.

    They are a description, no check: `checked_weights` then compares them with every key and tensor. Raises ModelError
    if something is absent or unknown.
    """
    saved = source.config
    missing = [key for field, key in _SIZES.items() if not _is_number(saved.get(key), field != "rms_norm_eps")]
    require(not missing, f"{source.place}: config.json has no number {', '.join(missing)}; give a folder of OLMo-2")
    require(  # else a number that is wrong makes as many layers in memory before its keys are missed
        saved["num_hidden_layers"] <= len(source.shapes),
        f"{source.place}: config.json has num_hidden_layers {saved['num_hidden_layers']}, but there are only "
        f"{len(source.shapes)} tensors; take the config.json of these tensors",
    )
    rope = saved.get("rope_parameters")
    theta = saved.get("rope_theta") or (rope.get("rope_theta") if isinstance(rope, dict) else None)
    ends = source.eos_token_ids()
    pad = _first(saved.get("pad_token_id"))
    for key, number in {
        "num_key_value_heads": saved.get("num_key_value_heads"),
        "pad_token_id": pad,
    }.items():
        require(number is None or _is_number(number), f"{source.place}: config.json's {key} is {number!r}, no number")
    for number in ends:
        require(_is_number(number), f"{source.place}: an eos_token_id of its configs is {number!r}, no number")
    if theta is None or not ends:
        key = "rope_theta" if theta is None else "eos_token_id"
        raise ModelError(f"{source.place}: config.json has no {key}; give a folder of OLMo-2")
    try:
        config = ModelConfig(
            **{field: saved[key] for field, key in _SIZES.items()},
            num_kv_heads=saved.get("num_key_value_heads"),
            rope_theta=float(theta),
            initializer_range=float(saved.get("initializer_range") or ModelConfig.initializer_range),
            eos_token_id=ends[0],
            other_eos_token_ids=ends[1:],
            pad_token_id=ends[0] if pad is None else pad,
            norm_precision=NormPrecision(saved.get("norm_precision", "float32")),
        )
        config.validate()
        return config, _read_positions(source, config)
    except (ValueError, TypeError, OverflowError) as error:
        raise ModelError(f"{source.place}: {error}") from error


def _read_positions(source: Source, config: ModelConfig) -> PositionsConfig:
    """Returns the positions. Raises ModelError, and ValueError for a precision that does not exist."""
    saved = source.config
    _, names = file_layers(saved, source.shapes.keys(), config.num_layers)
    positions = positions_for(names)
    positions.precision = PositionPrecision(saved.get("position_precision", "float32"))
    if (yarn := file_yarn(saved)) is not None:
        positions.yarn = YarnConfig(
            factor=yarn["factor"],
            original_max_position=round(yarn["original_max_position"]),
            beta_fast=yarn["beta_fast"],
            beta_slow=yarn["beta_slow"],
        )
    positions.validate()
    positions.hidden_divisor = _divisor(source, config, positions)
    return positions


def _divisor(source: Source, config: ModelConfig, positions: PositionsConfig) -> int:
    """Returns the divisor that gives the maps the widths of the source's; where it has none, the default."""
    width = config.hidden_size
    exact_first = sorted(range(1, width + 1), key=lambda divisor: (width % divisor != 0, divisor))
    for divisor in (positions.hidden_divisor, *exact_first):
        trial = PositionsConfig(positions.scheme, positions.start_layer, positions.layers, hidden_divisor=divisor)
        if _fits(source, config, trial):
            return divisor
    return positions.hidden_divisor


def _fits(source: Source, config: ModelConfig, positions: PositionsConfig) -> bool:
    """Returns whether no map of the source has another shape than configured."""
    for layer, scheme in enumerate(build_schemes(config, positions)):
        keys = map_keys(SCHEMES[scheme.name], layer)
        for name, shape in scheme.maps().items():
            if source.shapes.get(keys[name], shape) != shape:
                return False
        if keys:
            return True
    return True


def _is_number(value: Any, is_whole: bool = True) -> bool:
    """Returns whether a value of a config.json is a number, or a whole one; true and false are none."""
    return isinstance(value, int if is_whole else int | float) and not isinstance(value, bool)


def _first(token: Any) -> int | None:
    """Returns a token id that may be a list of them."""
    return token[0] if isinstance(token, list) and token else token
