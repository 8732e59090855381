"""Writes a model as a Hugging Face folder: config.json, generation_config.json, safetensors, and code where needed.

Who can open it is its flavour (model/huggingface/flavours.py). Tokenizer and model card are files that the caller
gives (model/huggingface/tokenizer.py, card.py).
"""

import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from common.files import flush_to_disk, partial_of
from model.config import ModelConfig, PositionsConfig
from model.errors import ModelError
from model.huggingface.flavours import Flavour, check_flavour, default_flavour, describe, write_code
from model.weights import hf_keys, parameter_shapes

Report = Callable[[int, int], None]
"""Gets the number of parameters written so far, and of all."""


def save_hf(
    folder: str | Path,
    config: ModelConfig,
    positions: PositionsConfig,
    tensors: Iterable[tuple[str, Tensor]],
    max_shard_bytes: int = 5_000_000_000,
    max_position_embeddings: int = 4096,
    *,
    flavour: Flavour | None = None,
    dtype: torch.dtype | None = None,
    other_files: Mapping[str, bytes] | None = None,
    report: Report = lambda done, total: None,
) -> None:
    """Writes a Hugging Face folder, whole and on the disk, or not at all.

    `tensors` yields (our parameter name, value), each parameter once, in any order and dtype; about one shard of them
    is held at a time. `flavour` None is `default_flavour`; `dtype` None keeps each tensor's own. `other_files` are the
    contents of further files, by name. Files can be read by whom the umask allows.

    Raises ModelError if `folder` exists, if readers of the flavour cannot open this model, or if `tensors` are not
    those of the model, and OSError, which names `folder`, if it cannot be written.
    """
    folder = Path(folder)
    if folder.exists():
        raise ModelError(f"{folder} exists; remove it or choose another folder to export to")
    flavour = flavour or default_flavour(config, positions)
    check_flavour(flavour, config, positions)
    partial = partial_of(folder)
    with _errors_name(folder):
        partial.mkdir(parents=True)
    try:
        shapes, keys = parameter_shapes(config, positions), hf_keys(config, positions)
        writer = _ShardWriter(partial, folder, shapes, keys, max_shard_bytes)
        writer.write(((name, value if dtype is None else value.to(dtype)) for name, value in tensors), report)
        described = describe(flavour, config, positions, writer.dtype, max_position_embeddings)
        generation = {key: described[key] for key in ("eos_token_id", "pad_token_id")} | {"use_cache": True}
        with _errors_name(folder):
            _write_json(partial / "config.json", described)
            _write_json(partial / "generation_config.json", generation)
            write_code(partial, flavour, config, positions)
            for name, content in (other_files or {}).items():
                (partial / name).write_bytes(content)
            _finish(partial)
            partial.rename(folder)
            flush_to_disk(folder.parent)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


@contextmanager
def _errors_name(folder: Path) -> Iterator[None]:
    """Makes errors of writing an OSError of the folder that was asked for, not of the hidden one that comes first."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(folder)) from error
    except SafetensorError as error:  # a full disk, as text
        raise OSError(f"{folder}: {error}") from error


def _finish(folder: Path) -> None:
    """Gives all files the mode of an ordinary one (safetensors makes its own 0600), and flushes them to the disk."""
    mode = (folder / "config.json").stat().st_mode
    for path in folder.iterdir():
        path.chmod(mode)
        flush_to_disk(path)
    flush_to_disk(folder)


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n")


class _ShardWriter:
    """The safetensors files of one folder, about one of them in memory."""

    def __init__(
        self,
        folder: Path,
        target: Path,
        shapes: dict[str, tuple[int, ...]],
        keys: dict[str, str],
        max_shard_bytes: int,
    ) -> None:
        self.dtype = ""
        """The dtype of the first tensor, as in `float32`."""
        self._folder = folder
        self._target = target  # what errors name
        self._awaited = dict(shapes)
        self._keys = keys
        self._max_shard_bytes = max_shard_bytes
        self._shards: list[list[str]] = []
        self._shard: dict[str, Tensor] = {}
        self._num_bytes = 0
        self._total_bytes = 0

    def write(self, tensors: Iterable[tuple[str, Tensor]], report: Report) -> None:
        """Writes the shards and, if there are several, their index. Raises ModelError."""
        total = len(self._awaited)
        for name, tensor in tensors:
            if self._awaited.pop(name, None) != tuple(tensor.shape):
                raise ModelError(
                    f"{name} {list(tensor.shape)} is no parameter of this model, or came twice; give each once"
                )
            self._add(name, tensor.detach())
            report(total - len(self._awaited), total)
        if self._awaited:
            raise ModelError(
                f"{len(self._awaited)} parameters were not given, {next(iter(self._awaited))} among them; "
                "give each once"
            )
        self._flush()
        with _errors_name(self._target):
            self._name_shards()

    def _add(self, name: str, tensor: Tensor) -> None:
        self.dtype = self.dtype or str(tensor.dtype).removeprefix("torch.")
        if self._shard and self._num_bytes + tensor.nbytes > self._max_shard_bytes:
            self._flush()
        self._shard[self._keys[name]] = tensor.cpu().contiguous()
        self._num_bytes += tensor.nbytes

    def _flush(self) -> None:
        with _errors_name(self._target):
            save_file(self._shard, self._folder / f"shard-{len(self._shards)}", metadata={"format": "pt"})
        self._shards.append(list(self._shard))
        self._shard.clear()
        self._total_bytes += self._num_bytes
        self._num_bytes = 0

    def _name_shards(self) -> None:
        """Gives shards their final names, which state how many there are."""
        folder, shards = self._folder, self._shards
        if len(shards) == 1:
            (folder / "shard-0").rename(folder / "model.safetensors")
            return
        names = [f"model-{number:05d}-of-{len(shards):05d}.safetensors" for number in range(1, len(shards) + 1)]
        for number, name in enumerate(names):
            (folder / f"shard-{number}").rename(folder / name)
        weight_map = {key: name for name, keys in zip(names, shards, strict=True) for key in keys}
        index = {"metadata": {"total_size": self._total_bytes}, "weight_map": weight_map}
        _write_json(folder / "model.safetensors.index.json", index)
