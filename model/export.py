"""Writes a model as a Hugging Face folder: config.json (model/hf_config.py) and safetensors.

`transformers` reads the export of a RoPE model as a plain OLMo-2. The published RePo fork reads what its vocabulary
reaches: no YaRN, no grouped queries (docs/differences.md).
"""

import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from common.files import flush_to_disk
from model.config import ModelConfig, PositionsConfig
from model.errors import ModelError
from model.hf_config import hf_config
from model.weights import hf_keys, parameter_shapes


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
        shapes, keys = parameter_shapes(config, positions), hf_keys(config, positions)
        dtype = _write_shards(partial, shapes, keys, tensors, max_shard_bytes)
        description = hf_config(config, positions, dtype, max_position_embeddings)
        (partial / "config.json").write_text(json.dumps(description, indent=2) + "\n")
        for path in partial.glob("*.safetensors"):  # which the library makes for their owner alone
            shutil.copymode(partial / "config.json", path)
        for path in (*partial.iterdir(), partial):
            flush_to_disk(path)
        partial.rename(folder)
        flush_to_disk(folder.parent)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _write_shards(
    folder: Path,
    shapes: dict[str, tuple[int, ...]],
    keys: dict[str, str],
    tensors: Iterable[tuple[str, Tensor]],
    max_shard_bytes: int,
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
        shard[keys[name]] = tensor.detach().cpu().contiguous()
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
