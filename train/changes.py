"""Which config keys may change when a run continues.

Most may, and the change is printed. A change that makes it another run (another model, other batches) is refused with
both values, unless `checkpoint.accept_changes` names it. Parameters of other shapes are always refused.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from common.words import config_text
from data.fetch.credentials import without_credentials
from model.config import ModelConfig, PositionsConfig
from model.positions import layer_schemes
from model.weights import parameter_shapes
from train.compose.renamed import with_new_keys
from train.config import RunConfig
from train.errors import TrainError

Changes = dict[str, tuple[Any, Any]]  # key -> (value then, value now)

# Keys that must not change by accident; and those of them that may, because they change no result of training.
FIXED = ("model.", "positions.", "sequence_length", "global_batch_size", "mask_documents")
LAYERS = ("positions.scheme", "positions.start_layer", "positions.layers")  # which may say the same in two ways
FREE = (
    "model.attention",
    "model.kernel",
    "model.activation_checkpointing",
    "model.compile",
    "model.loss_chunk_rows",
    "model.other_eos_token_ids",
)


def changed_keys(saved: Mapping[str, Any], config: RunConfig) -> Changes:
    """Returns every key in which `config` differs from the plain config that a checkpoint holds.

    A key that is newer than the checkpoint had its default then.
    """
    defaults = RunConfig(name=config.name).as_plain()
    then, now = {**_flat(defaults), **_flat(with_new_keys(saved))}, _flat(config.as_plain())
    then = {key: without_credentials(value) if isinstance(value, str) else value for key, value in then.items()}
    return {key: (then.get(key), now.get(key)) for key in {**then, **now} if then.get(key) != now.get(key)}


def check_changes(checkpoint: Path, saved: Mapping[str, Any], config: RunConfig) -> None:
    """Raises TrainError, naming both values, if `config` is that of another run than the plain config `saved`."""
    changed = changed_keys(saved, config)
    fixed = {key: values for key, values in changed.items() if key.startswith(FIXED) and not key.startswith(FREE)}
    if not any(key.startswith(("model.", "positions.")) for key in fixed):
        refuse_changes(checkpoint, fixed, config.checkpoint.accept_changes)
        return
    model, positions = _saved_model(checkpoint, saved)
    if layer_schemes(positions, model.num_layers) == layer_schemes(config.positions, config.model.num_layers):
        fixed = {key: values for key, values in fixed.items() if key not in LAYERS}
    if parameter_shapes(model, positions) != parameter_shapes(config.model, config.positions):
        raise TrainError(
            f"{checkpoint} has other parameters: {_listed(fixed)}. Restore this to continue, or give the new run a "
            f"name of its own; once this one is finished, init_from={checkpoint.parents[1]} starts it from its weights"
        )
    refuse_changes(checkpoint, fixed, config.checkpoint.accept_changes)


def refuse_changes(checkpoint: Path, changes: Mapping[str, tuple[Any, Any]], accepted: Sequence[str]) -> None:
    """Raises TrainError for changes (key -> value then, value now) that `checkpoint.accept_changes` does not name.

    A name accepts its key and all keys below it: `data.sources` accepts `data.sources.web.weight`.
    """
    refused = {
        key: values
        for key, values in changes.items()
        if not any(key == name or key.startswith(f"{name}.") for name in accepted)
    }
    if refused:
        names = ",".join([*accepted, *refused])
        raise TrainError(
            f"{checkpoint} belongs to another run: {_listed(refused)}. Restore this to continue, give the new run a "
            f"name of its own, or accept it with 'checkpoint.accept_changes=[{names}]'"
        )


def _listed(changes: Mapping[str, tuple[Any, Any]]) -> str:
    return "; ".join(f"{key} was {config_text(was)} and is {config_text(now)}" for key, (was, now) in changes.items())


def _saved_model(checkpoint: Path, saved: Mapping[str, Any]) -> tuple[ModelConfig, PositionsConfig]:
    saved = with_new_keys(saved)
    try:
        model, positions = (
            OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(kind), saved[name]))
            for name, kind in (("model", ModelConfig), ("positions", PositionsConfig))
        )
    except OmegaConfBaseException as error:
        raise TrainError(f"{checkpoint} was written by another version of this software: {error}") from error
    assert isinstance(model, ModelConfig) and isinstance(positions, PositionsConfig)
    return model, positions


def _flat(plain: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in plain.items():
        flat.update(_flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value})
    return flat
