"""Weights from anywhere as a checked Hugging Face folder of ours: `python -m model import`."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from model.config import ModelConfig, PositionsConfig
from model.export import save_hf
from model.huggingface.flavours import Flavour, default_flavour
from model.huggingface.reading import read_configs
from model.huggingface.tokenizer import NAME, tokenizer_files
from model.positions import layer_schemes, overrides_for
from model.weights import Source, checked_weights, finite, hf_keys
from train.errors import TrainError
from train.huggingface.source import check_reachable, check_target, fetch_source, open_source


@dataclass(frozen=True)
class Imported:
    """What an import found."""

    place: str
    """Where the weights were."""
    config: ModelConfig
    positions: PositionsConfig
    flavour: Flavour
    """Of the folder that was written."""
    dtype: torch.dtype
    """Of the first of the weights."""

    def overrides(self) -> str:
        """Returns the `key=value` arguments that configure what is not a size and not the default."""
        names = [scheme.name for scheme in layer_schemes(self.positions, self.config.num_layers)]
        arguments, usual = [overrides_for(names, PositionsConfig())], PositionsConfig()
        if self.positions.hidden_divisor != usual.hidden_divisor:
            arguments.append(f"positions.hidden_divisor={self.positions.hidden_divisor}")
        if self.positions.precision != usual.precision:
            arguments.append(f"positions.precision={self.positions.precision.value}")
        if (yarn := self.positions.yarn) is not None:
            arguments.append("+positions/yarn=default")
            arguments += [f"positions.yarn.{key}={value:g}" for key, value in vars(yarn).items()]
        if self.config.norm_precision != ModelConfig.norm_precision:
            arguments.append(f"model.norm_precision={self.config.norm_precision.value}")
        if others := self.config.other_eos_token_ids:
            arguments.append(f"'model.other_eos_token_ids=[{','.join(map(str, others))}]'")
        return " ".join(arguments)


def _longest_context(source: Source) -> int:
    length = source.config.get("max_position_embeddings", 4096)
    if not isinstance(length, int) or length < 1:
        raise TrainError(f"{source.place}: config.json's max_position_embeddings is {length!r}; it must be 1 or more")
    return length


def import_weights(
    source: str, folder: Path, report: Callable[[int, int], None] = lambda done, total: None
) -> Imported:
    """Writes the weights of a source to a new folder, each in the dtype that it has, and returns what they are.

    The tokenizer.json of the source comes along. `report` gets the number of parameters written so far, and of all.
    Raises DataError, ModelError and TrainError, with everything that is wrong, and OSError; no folder is there then.
    """
    check_target(folder)
    check_reachable(source)
    origin = fetch_source(source)
    opened = open_source(origin)
    config, positions = read_configs(opened)
    checked_weights(opened, config, positions, seed=0)
    flavour, keys = default_flavour(config, positions), hf_keys(config, positions)
    dtype = opened.read(next(iter(keys.values()))).dtype
    length = _longest_context(opened)
    tokenizer = next((path for path in (Path(opened.place) / NAME, origin / NAME) if path.is_file()), None)
    save_hf(
        folder,
        config,
        positions,
        ((name, finite(opened, key)) for name, key in keys.items()),
        max_position_embeddings=length,
        flavour=flavour,
        other_files=tokenizer_files(tokenizer, config, length) if tokenizer else {},
        report=report,
    )
    return Imported(opened.place, config, positions, flavour, dtype)
