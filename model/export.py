"""Writes a model as a Hugging Face folder that `transformers` and the published RePo forks read.

A RoPE model is a plain OLMo-2 checkpoint. A layer with other positions is described twice in config.json: as
`layer_positions`, one kind per layer, and, where the published vocabulary reaches, as `pe_config`, whose readers look
for the misspelled `dynmaic_*` keys only.
"""

import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from model.config import ModelConfig, PositionKind, PositionsConfig, layer_kinds
from model.errors import ModelError
from model.weights import hf_name, parameter_shapes


def save_hf(
    folder: str | Path,
    config: ModelConfig,
    positions: PositionsConfig,
    tensors: Iterable[tuple[str, Tensor]],
    max_shard_bytes: int = 5_000_000_000,
    max_position_embeddings: int = 4096,
) -> None:
    """Writes config.json and safetensors to `folder`, whole and on the disk, or not at all.

    `tensors` yields (our parameter name, value), each parameter once, in any order and dtype; about one shard of them
    is held at a time. Raises ModelError if `folder` exists or `tensors` are not those of the model.
    """
    folder = Path(folder)
    if folder.exists():
        raise ModelError(f"{folder} exists; remove it or choose another folder to export to")
    partial = folder.with_name(f".{folder.name}.partial-{os.getpid()}")
    partial.mkdir(parents=True)
    try:
        dtype = _write_shards(partial, parameter_shapes(config, positions), tensors, max_shard_bytes)
        description = hf_config(config, positions, dtype, max_position_embeddings)
        (partial / "config.json").write_text(json.dumps(description, indent=2) + "\n")
        for path in (*partial.iterdir(), partial):
            _flush(path)
        partial.rename(folder)
        _flush(folder.parent)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _flush(path: Path) -> None:
    """Makes a file's bytes, or a folder's entries, outlive a power failure."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def hf_config(
    config: ModelConfig, positions: PositionsConfig, dtype: str, max_position_embeddings: int = 4096
) -> dict[str, Any]:
    """The content of config.json; `dtype` as in `float32` or `bfloat16`."""
    kinds = layer_kinds(positions, config.num_layers)
    description: dict[str, Any] = {
        "architectures": ["Olmo2ForCausalLM"],
        "model_type": "olmo2",
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.key_value_heads,
        "hidden_act": "silu",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "max_position_embeddings": max_position_embeddings,
        "rope_theta": config.rope_theta,
        "rope_scaling": None,
        "rms_norm_eps": config.rms_norm_eps,
        "initializer_range": config.initializer_range,
        "bos_token_id": None,
        "eos_token_id": config.eos_token_id,
        "pad_token_id": config.pad_token_id,
        "tie_word_embeddings": False,
        "torch_dtype": dtype,
    }
    if positions.yarn is not None:
        yarn = positions.yarn
        # Readers differ on whether the factor is stated or inferred from these lengths: make both say the same.
        description["max_position_embeddings"] = round(yarn.factor * yarn.original_max_position)
        description["rope_scaling"] = {
            "rope_type": "yarn",
            "factor": yarn.factor,
            "original_max_position_embeddings": yarn.original_max_position,
            "beta_fast": yarn.beta_fast,
            "beta_slow": yarn.beta_slow,
        }
    if any(kind is not PositionKind.rope for kind in kinds):
        description["layer_positions"] = [kind.name for kind in kinds]
        if PositionKind.nope not in kinds or PositionKind.repo not in kinds:
            description["pe_config"] = _pe_config(kinds)
    return description


def _pe_config(kinds: tuple[PositionKind, ...]) -> dict[str, Any]:
    """The published description of layers that are RoPE or one other kind, that other kind's from a start or listed."""
    special = [layer for layer, kind in enumerate(kinds) if kind is not PositionKind.rope]
    start = special[0]
    to_the_top = special == list(range(start, len(kinds)))
    layer_ids = "" if to_the_top else ",".join(map(str, special))
    return {
        "dynamic_pe_mode": "swigluex_multihead" if PositionKind.repo in kinds else "nope",
        "dynamic_pe_start_layer": start,
        "dynamic_pe_layer_ids": layer_ids,
        "dynmaic_pe_start_layer": start,
        "dynmaic_pe_layer_ids": layer_ids,
    }


def _write_shards(
    folder: Path, shapes: dict[str, tuple[int, ...]], tensors: Iterable[tuple[str, Tensor]], max_shard_bytes: int
) -> str:
    """Writes the shards and, if there are several, their index; returns the dtype of the first tensor."""
    shards: list[list[str]] = []
    shard: dict[str, Tensor] = {}
    num_bytes = total_bytes = 0
    awaited = dict(shapes)
    dtype = ""

    def flush() -> None:
        save_file(shard, folder / f"shard-{len(shards)}", metadata={"format": "pt"})
        shards.append(list(shard))
        shard.clear()

    for name, tensor in tensors:
        if awaited.pop(name, None) != tuple(tensor.shape):
            raise ModelError(
                f"{name} {list(tensor.shape)} is no parameter of this model, or came twice; give each once"
            )
        dtype = dtype or str(tensor.dtype).removeprefix("torch.")
        if shard and num_bytes + tensor.nbytes > max_shard_bytes:
            flush()
            num_bytes = 0
        shard[hf_name(name)] = tensor.detach().cpu().contiguous()
        num_bytes += tensor.nbytes
        total_bytes += tensor.nbytes
    if awaited:
        raise ModelError(f"{len(awaited)} parameters were not given, {next(iter(awaited))} among them; give each once")
    flush()
    _name_shards(folder, shards, total_bytes)
    return dtype


def _name_shards(folder: Path, shards: list[list[str]], total_bytes: int) -> None:
    """Gives shards their final names, which state how many there are."""
    if len(shards) == 1:
        (folder / "shard-0").rename(folder / "model.safetensors")
        return
    names = [f"model-{number:05d}-of-{len(shards):05d}.safetensors" for number in range(1, len(shards) + 1)]
    for number, name in enumerate(names):
        (folder / f"shard-{number}").rename(folder / name)
    weight_map = {key: name for name, keys in zip(names, shards, strict=True) for key in keys}
    index = {"metadata": {"total_size": total_bytes}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")
