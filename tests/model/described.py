"""Exports of small models, and what a changed config.json makes of them."""

import json
from pathlib import Path
from typing import Any

from model.config import PositionsConfig, YarnConfig
from model.weights import Weights, hf_weights
from tests.model.small import small

YARN = YarnConfig(factor=4.0, original_max_position=64)
ROPE_YARN = PositionsConfig(scheme="rope", yarn=YARN)


def load(folder: Path, positions: PositionsConfig, *, is_conversion: bool = False) -> Weights:
    return hf_weights(folder, small(), positions, seed=5, is_conversion=is_conversion)


def described(folder: Path, target: Path, **changes: Any) -> Path:
    """The same tensors under a config.json with these changes; None takes a key away."""
    description = json.loads((folder / "config.json").read_text()) | changes
    target.mkdir()
    (target / "model.safetensors").symlink_to(folder / "model.safetensors")
    kept = {key: value for key, value in description.items() if value is not None}
    (target / "config.json").write_text(json.dumps(kept))
    return target
