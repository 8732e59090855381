"""torch.load that runs nothing of what a file holds: a checkpoint may come from a stranger.

A file of torch.save is a pickle, and a pickle can call anything when it is read. In this context torch builds tensors,
plain values and the types listed here, and refuses all others, in DeepSpeed's own calls of torch.load as well, which
ask for everything. The list is what DeepSpeed 0.19.8 and numpy's generator add: types that hold values.
"""

import contextlib
import os
import pickle
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from train.errors import TrainError

FORCE = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"  # torch then treats every torch.load as one with weights_only=True


@contextlib.contextmanager
def only_known_types(folder: Path) -> Iterator[None]:
    """Raises TrainError, naming `folder` and the type, where a file in it holds another type than those known here."""
    before = os.environ.get(FORCE)
    os.environ[FORCE] = "1"
    try:
        with torch.serialization.safe_globals(_known_types()):
            yield
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL (\S+)", str(error))
        what = named[1] if named else str(error).splitlines()[0]
        raise TrainError(
            f"{folder} holds {what}, which no checkpoint of this program holds and which could run anything: it was "
            "not loaded; delete the checkpoint, and use those of people that you trust"
        ) from error
    finally:
        if before is None:
            del os.environ[FORCE]
        else:
            os.environ[FORCE] = before


def _known_types() -> list[Any]:
    from deepspeed.runtime.fp16.loss_scaler import LossScaler  # not before Ranks.join has set the accelerator
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    reconstruct = np.ndarray(0).__reduce__()[0]  # where it lies differs between versions of numpy
    of_numpy = [reconstruct, (reconstruct, "numpy.core.multiarray._reconstruct"), np.ndarray, np.dtype]
    return [LossScaler, ZeroStageEnum, fragment_address, *of_numpy, type(np.dtype(np.uint32))]
