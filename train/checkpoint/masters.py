"""The fp32 weights of a checkpoint of any ZeRO stage, precision and number of ranks, without ranks and without a GPU.

DeepSpeed's files are mapped, not read, and each weight is put together when it is asked for, so that memory holds one
at a time. Their layout (DeepSpeed 0.19.8, deepspeed/utils/zero_to_fp32.py):

- ZeRO 0: `module` of the one file of model states is the whole model.
- ZeRO 1, 2: `param_shapes` lists the parameters of each group in order; a group's weights lie end to end, cut into one
  part per rank (`single_partition_of_fp32_groups`).
- ZeRO 3: each rank has its part of every parameter, one parameter after the other (`fp32_flat_groups`); the last parts
  are padded.
"""

import math
import pickle
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from train.checkpoint.manifest import DamageError, find_damage
from train.checkpoint.store import Checkpoint, checkpoint_folders
from train.errors import TrainError

_STATES = "_states.pt"  # how the names of the files of weights and optimizer state end


def read_masters(checkpoint: Checkpoint) -> dict[str, Callable[[], Tensor]]:
    """Returns for each parameter name what reads its fp32 value.

    Every byte of the files is compared with its digest first. Raises TrainError if one differs.
    """
    files = [item for item in checkpoint.files.items() if item[0].endswith(_STATES)]
    if damage := find_damage(checkpoint.folder, files):
        steps = ", ".join(
            path.name for path in checkpoint_folders(checkpoint.folder.parent) if path != checkpoint.folder
        )
        raise TrainError(
            f"{checkpoint.folder} is damaged ({damage}): take another checkpoint (there are: {steps or 'none'}), or "
            "restore its file"
        )
    try:
        return _READERS[checkpoint.layout.zero_stage](checkpoint.folder, checkpoint.layout.world_size)
    except (KeyError, StopIteration, DamageError) as error:
        raise TrainError(
            f"{checkpoint.folder} does not hold what DeepSpeed writes at ZeRO {checkpoint.layout.zero_stage} ({error!r}"
            "): take another checkpoint"
        ) from error


class _Flat:
    """Tensors that lie end to end, read as one."""

    def __init__(self, parts: Sequence[Tensor]) -> None:
        self._parts = parts

    def read(self, start: int, length: int) -> list[Tensor]:
        """Returns the pieces of a range; it may be cut short by the end."""
        pieces = []
        for part in self._parts:
            if start < len(part) and length > 0:
                piece = part[start : start + length]
                pieces.append(piece)
                length -= len(piece)
            start = max(start - len(part), 0)
        return pieces


def _read_plain(folder: Path, world_size: int) -> dict[str, Callable[[], Tensor]]:
    module = _load(next(folder.glob("mp_rank_*_model_states.pt")))["module"]
    return {name: value.float for name, value in module.items()}


def _read_zero12(folder: Path, world_size: int) -> dict[str, Callable[[], Tensor]]:
    shapes = _load(next(folder.glob("mp_rank_*_model_states.pt")))["param_shapes"]
    ranks = _optimizer_states(folder, world_size)
    gaps = ranks[0].get("param_alignment_paddings")
    found = {}
    for number, group in enumerate(shapes):
        flat, start = _Flat([rank["single_partition_of_fp32_groups"][number] for rank in ranks]), 0
        for index, (name, shape) in enumerate(group.items()):
            found[name] = _whole([flat], start, math.prod(shape), tuple(shape))
            start += math.prod(shape) + (gaps[number][index] if gaps else 0)
    return found


def _read_zero3(folder: Path, world_size: int) -> dict[str, Callable[[], Tensor]]:
    shapes = _load(next(folder.glob("zero_pp_rank_0_*_model_states.pt")))["param_shapes"]
    ranks = [_Flat(rank["fp32_flat_groups"]) for rank in _optimizer_states(folder, world_size)]
    found, start = {}, 0
    for name, shape in ((name, shape) for group in shapes for name, shape in group.items()):
        length = math.ceil(math.prod(shape) / world_size)
        found[name] = _whole(ranks, start, length, tuple(shape))
        start += length
    return found


_READERS: dict[int, Callable[[Path, int], dict[str, Callable[[], Tensor]]]] = {
    0: _read_plain,
    1: _read_zero12,
    2: _read_zero12,
    3: _read_zero3,
}  # by ZeRO stage


def _whole(flats: Sequence[_Flat], start: int, length: int, shape: tuple[int, ...]) -> Callable[[], Tensor]:
    """Returns what reads the same range of each, end to end, without the padding of the last, in its shape."""

    def read() -> Tensor:
        pieces = [piece for flat in flats for piece in flat.read(start, length)]
        joined = pieces[0] if len(pieces) == 1 else torch.cat(pieces)  # one piece stays in the mapped file
        return joined[: math.prod(shape)].view(shape).float()

    return read


def _optimizer_states(folder: Path, world_size: int) -> list[dict[str, Any]]:
    """Returns every rank's optimizer state. Raises DamageError if a rank's file is absent."""

    def states() -> Iterator[dict[str, Any]]:
        for rank in range(world_size):
            found = list(folder.glob(f"*zero_pp_rank_{rank}_mp_rank_00_optim_states.pt"))
            if len(found) != 1:
                raise DamageError(f"{len(found)} files of rank {rank}")
            yield _load(found[0])["optimizer_state_dict"]

    return list(states())


class _Ignored:
    """What stands for an object of any type that is not needed here, such as DeepSpeed's loss scaler. Does nothing."""

    def __init__(self, *arguments: Any) -> None:
        """Forgets the arguments."""

    def __setstate__(self, state: Any) -> None:
        """Forgets the state."""

    def __setitem__(self, key: Any, value: Any) -> None:
        """Forgets the item."""

    def append(self, item: Any) -> None:
        """Forgets the item."""

    def extend(self, items: Any) -> None:
        """Forgets the items."""


class _Unpickler(pickle.Unpickler):
    """Builds tensors and plain values; nothing else that a file names is imported, and so nothing of it is run.

    DeepSpeed is not imported either, which takes seconds and looks for a GPU.
    """

    def find_class(self, module: str, name: str) -> Any:
        is_storage = module in ("torch", "torch.storage") and name.endswith("Storage")
        is_dtype = module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
        if is_storage or is_dtype or (module, name) in _KNOWN:
            return super().find_class(module, name)
        return _Ignored


_KNOWN = {
    ("collections", "OrderedDict"),
    ("torch", "Size"),
    ("torch", "Tensor"),
    ("torch._tensor", "_rebuild_from_type_v2"),
    ("torch._utils", "_rebuild_parameter"),
    ("torch._utils", "_rebuild_tensor"),
    ("torch._utils", "_rebuild_tensor_v2"),
}


def _load(path: Path) -> dict[str, Any]:
    reader = SimpleNamespace(__name__="pickle", Unpickler=_Unpickler, load=pickle.load)
    state: dict[str, Any] = torch.load(path, "cpu", pickle_module=reader, mmap=True, weights_only=False)
    return state
