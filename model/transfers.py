"""Copies from the host to a device for which the host does not wait."""

import numpy as np
import torch
from torch import Tensor


def to_device(values: np.ndarray, device: torch.device | str) -> Tensor:
    """Returns the values on `device`, in their dtype; on a CPU they share the memory of `values`.

    A copy to a GPU is queued behind the work that is already queued there, and the host goes on. That takes pinned
    memory: from any other, torch waits until the device has done all of it, whatever `non_blocking` says. torch keeps
    pinned blocks, and gives one out again when the copy that reads it is done.
    """
    tensor = torch.from_numpy(values)
    if torch.device(device).type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)
