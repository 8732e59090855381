"""Copies to a device do not make the host wait."""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from model.attention import Documents
from model.transfers import to_device


class Recorded(TorchFunctionMode):
    """Notes what copies to a GPU are asked to do, in place of doing it: no GPU is needed."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, ...]] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Records pinning and copying; runs everything else."""
        kwargs = kwargs or {}
        if func is Tensor.pin_memory:
            self.calls.append(("pin",))
            return args[0]
        if func is Tensor.to:
            self.calls.append(("to", str(args[1]), kwargs.get("non_blocking", False)))
            return args[0]
        return func(*args, **kwargs)


TO_GPU = [("pin",), ("to", "cuda", True)]


def test_a_copy_to_a_gpu_comes_from_pinned_memory_and_is_queued() -> None:
    with Recorded() as recorded:
        to_device(np.arange(3), "cuda")
    assert recorded.calls == TO_GPU


def test_so_do_the_boundaries_of_documents() -> None:
    with Recorded() as recorded:
        Documents.from_boundaries([[0, 2, 5]], "cuda")
    assert recorded.calls == 2 * TO_GPU


def test_on_a_cpu_nothing_is_copied() -> None:
    values = np.arange(3)
    assert to_device(values, torch.device("cpu")).data_ptr() == values.ctypes.data
