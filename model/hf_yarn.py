"""YaRN (arXiv 2309.00071) in a Hugging Face config.json, held against the config.

`rope_scaling` describes it, in newer files `rope_parameters`. A description that says two things, or that is not
understood here, is refused: read as no YaRN it would be another model, and its tensors do not show that.
"""

import json
import math
from collections.abc import Mapping
from typing import Any

from model.config import YarnConfig
from model.errors import ModelError, require

_PLAIN, _YARN = "default", "yarn"
_KINDS = ("rope_type", "type")  # the second is the older name of the first
_OF_ANY_KIND = (*_KINDS, "rope_theta", "partial_rotary_factor")


def file_yarn(saved: Mapping[str, Any]) -> dict[str, float] | None:
    """Returns what a config.json says about YaRN. Raises ModelError for any other scaling, or two that differ."""
    found = {key: _yarn(key, saved[key], saved) for key in ("rope_scaling", "rope_parameters") if saved.get(key)}
    if len(found) == 2:
        old, new = found.values()
        require(
            old == new,
            f"config.json's rope_scaling has {_in_words(old)} and its rope_parameters has {_in_words(new)}: "
            "correct the wrong one",
        )
    return next(iter(found.values()), None)


def _in_words(yarn: Mapping[str, float] | None) -> str:
    settings = ", ".join(f"{key} {value:g}" for key, value in yarn.items()) if yarn else ""
    return f"YaRN with {settings}" if yarn else "no YaRN"


def _yarn(key: str, scaling: Any, saved: Mapping[str, Any]) -> dict[str, float] | None:
    """Returns the YaRN of one description, with the defaults that transformers gives to what is left out."""
    require(isinstance(scaling, dict), f"config.json's {key} is {json.dumps(scaling)}; it must be an object")
    if _kind(key, scaling) == _PLAIN:
        return None
    require(scaling.get("truncate", True) is True, f"config.json's {key} has truncate=false, which is not known here")
    try:
        factor = float(scaling["factor"])
        original = scaling.get("original_max_position_embeddings") or saved["max_position_embeddings"]
        scale, scale_all = scaling.get("mscale"), scaling.get("mscale_all_dim")
        attention_factor = scaling.get("attention_factor")
        if attention_factor is None and scale and scale_all:
            attention_factor = _attention_factor(factor, scale) / _attention_factor(factor, scale_all)
        elif attention_factor is None:
            attention_factor = _attention_factor(factor)
        return {
            "factor": factor,
            "original_max_position": float(original),
            "beta_fast": float(scaling.get("beta_fast") or 32.0),
            "beta_slow": float(scaling.get("beta_slow") or 1.0),
            "attention_factor": float(attention_factor),
        }
    except (KeyError, TypeError, ValueError):
        raise ModelError(
            f"config.json's {key} is {json.dumps(scaling)}; a factor and numbers beside it were expected"
        ) from None


def _kind(key: str, scaling: Mapping[str, Any]) -> str:
    """Returns _PLAIN or _YARN. Raises ModelError unless all of a description says the same."""
    for name, value in scaling.items():
        require(
            not isinstance(value, dict),
            f"config.json's {key} has {name} {json.dumps(value)}, but all layers share one description here: "
            f"put its settings into {key} itself",
        )
    given = {name: scaling[name] for name in _KINDS if name in scaling}
    said = " and ".join(f"{name} {json.dumps(kind)}" for name, kind in given.items()) or "no rope_type"
    kinds = [_PLAIN if kind is None else kind for kind in given.values()] or [_PLAIN]
    require(kinds[0] == kinds[-1], f"config.json's {key} has {said}: correct the wrong one")
    require(
        kinds[0] in (_PLAIN, _YARN), f"config.json's {key} is of type {json.dumps(kinds[0])}; only yarn is known here"
    )
    others = [
        f"{name} {json.dumps(value)}"
        for name, value in scaling.items()
        if name not in _OF_ANY_KIND and value is not None
    ]
    require(
        kinds[0] == _YARN or not others,
        f"config.json's {key} has {', '.join(others)}, but {said}: "
        'write "rope_type": "yarn" if this is YaRN, or take these settings out',
    )
    return str(kinds[0])


def _attention_factor(factor: float, scale: float = 1.0) -> float:
    return 0.1 * scale * math.log(factor) + 1.0 if factor > 1 else 1.0


def compare_yarn(
    found: Mapping[str, float] | None, wanted: YarnConfig | None, is_conversion: bool
) -> tuple[list[str], list[str]]:
    """Returns problems, and what a conversion changes, where a file has this YaRN and the config that."""
    if found is None and wanted is None:
        return [], []
    if found is None:
        assert wanted is not None
        if is_conversion:
            return [], [f"rotations change to YaRN with factor {wanted.factor}"]
        return [f"config.json has no YaRN, but positions.yarn has factor {wanted.factor}: set positions.yarn=null"], []
    settings = {key: value for key, value in found.items() if key != "attention_factor"}
    arguments = " ".join(f"positions.yarn.{key}={value:g}" for key, value in settings.items())
    if wanted is None:
        return [
            f"config.json has YaRN with factor {found['factor']:g}, but positions.yarn is null: "
            f"add +positions/yarn=default {arguments}"
        ], []
    ours = {key: float(getattr(wanted, key)) for key in settings}
    if different := [key for key in settings if not math.isclose(settings[key], ours[key])]:
        pairs = ", ".join(f"{key} {settings[key]:g} and positions.yarn.{key} is {ours[key]:g}" for key in different)
        return [f"config.json's YaRN has {pairs}: set {arguments}"], []
    expected = _attention_factor(wanted.factor)
    if not math.isclose(found["attention_factor"], expected, rel_tol=1e-6):
        return [
            f"config.json's YaRN has an attention factor of {found['attention_factor']:g}, but here it is always "
            f"0.1 ln(factor) + 1 = {expected:g}: this checkpoint cannot be used"
        ], []
    return [], []
