"""Ranks: starting the process groups, small exchanges on the host, and ending a process without an abort.

The exchanges are small and needed on the host at once (token counts, stop flags, states), so they use gloo beside the
engine's own backend, and never wait for a GPU.
"""

import os
import random
import socket
import sys
import warnings
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar, cast

import numpy as np
import torch
import torch.distributed as dist

from train.allocator import keep_freed_memory
from train.gpus import listed_gpus, own_gpu, refuse_shared, refuse_unused, why_unusable
from train.processes import end_stopped_children
from train.temporary import remove_own_folder

T = TypeVar("T")
TIMEOUT = timedelta(minutes=30)  # of an exchange: the first ingest and a large save take minutes
NCCL_SETTINGS = {
    # When a peer is lost or TIMEOUT is over, NCCL's own thread aborts the collective, and the next one raises a Python
    # error as gloo's do. torch's default is to abort the process instead, with exit code 134.
    "TORCH_NCCL_ASYNC_ERROR_HANDLING": "2",
    # The last resort: ends a process whose NCCL thread hangs as well. Later than the watchdog, which says more.
    "TORCH_NCCL_ENABLE_MONITORING": "1",
    "TORCH_NCCL_HEARTBEAT_TIMEOUT_SEC": str(int(TIMEOUT.total_seconds())),
    # What each rank was doing, if a collective timed out, in files nccl_trace_rank_N of the folder for temporary files.
    "TORCH_NCCL_DUMP_ON_TIMEOUT": "1",
    "TORCH_NCCL_TRACE_BUFFER_SIZE": "2000",
}
"""Environment of a run on GPUs, unless it is set already."""


class Ranks:
    """This process among its peers. One process without a launcher is a world of one."""

    def __init__(self) -> None:
        self.rank = int(os.environ.get("RANK", 0))
        self.world_size = int(os.environ.get("WORLD_SIZE", 1))
        self.local_rank = int(os.environ.get("LOCAL_RANK", 0))
        has_gpus = torch.cuda.is_available()
        self.device = torch.device("cuda", self.local_rank) if has_gpus else torch.device("cpu")
        self._host_group: dist.ProcessGroup | None = None

    @property
    def is_main(self) -> bool:
        """Whether this is the rank that writes and prints."""
        return self.rank == 0

    def join(self) -> None:
        """Starts the process groups: DeepSpeed's (nccl or gloo), and gloo for the host.

        Raises TrainError if GPUs are here that torch cannot use, or if ranks have none of their own.
        """
        if self.device.type == "cpu":
            if num_gpus := listed_gpus():
                refuse_unused(num_gpus, torch.version.cuda, why_unusable())
            os.environ.setdefault("DS_ACCELERATOR", "cpu")
            keep_freed_memory()
        else:
            self.device = torch.device("cuda", own_gpu(self.rank, self.local_rank, torch.cuda.device_count()))
            torch.cuda.set_device(self.device)
            os.environ.update({name: value for name, value in NCCL_SETTINGS.items() if name not in os.environ})
            # Sums of products in float32 to the end: by default, cuBLAS may add up parts of a bf16 product in bf16.
            torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
        import deepspeed

        deepspeed.utils.logger.setLevel("WARNING")
        warnings.filterwarnings("ignore", category=FutureWarning, module="torch")
        if self.device.type == "cpu":
            # DeepSpeed would try a compiler to see which ops can be built, and build deepspeed_shm_comm (a minute, or
            # without end after a build that was killed), which serves inference only.
            deepspeed.ops.__compatible_ops__ = {}
        _load_muon_uncompiled()
        for name, value in (("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0"), ("MASTER_ADDR", "127.0.0.1")):
            os.environ.setdefault(name, value)
        if "MASTER_PORT" not in os.environ:
            os.environ["MASTER_PORT"] = "0" if self.world_size == 1 else "29500"
        backend = "gloo" if self.device.type == "cpu" else "nccl"
        deepspeed.init_distributed(backend, verbose=False, timeout=TIMEOUT)
        self._host_group = None if self.device.type == "cpu" else dist.new_group(backend="gloo", timeout=TIMEOUT)
        if self.device.type == "cuda":
            gpu = str(torch.cuda.get_device_properties(self.device).uuid)
            refuse_shared(self.gather((socket.gethostname(), gpu)))

    def connect_to_store(self, timeout: timedelta) -> dist.Store | None:
        """Returns a new connection to the key-value store of the rendezvous; None for a world of one."""
        if self.world_size == 1:
            return None
        host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        return dist.TCPStore(host, port, is_master=False, wait_for_workers=False, timeout=timeout)

    def sum(self, values: list[int]) -> list[int]:
        """Returns the element-wise sum over ranks of small integers, on the host."""
        tensor = torch.tensor(values, dtype=torch.int64)
        if self.world_size > 1:
            dist.all_reduce(tensor, group=self._host_group)
        return [int(value) for value in tensor]

    def gather(self, value: T) -> list[T]:
        """Returns every rank's picklable `value`, in rank order, on every rank."""
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value, group=self._host_group)
        return values

    def on_main(self, work: Callable[[], T]) -> T:
        """Runs `work` on the main rank alone; every rank returns its result, or raises its error."""
        result: T | None = None
        error: Exception | None = None
        if self.is_main:
            try:
                result = work()
            except Exception as caught:
                error = caught
        result, error = self.gather((result, error))[0]
        if error is not None:
            raise error
        return cast(T, result)

    def barrier(self) -> None:
        """Waits for all ranks, on the host."""
        if self.world_size > 1:
            dist.barrier(group=self._host_group)


def _load_muon_uncompiled() -> None:
    """Loads DeepSpeed's Muon optimizer, which every engine imports, with plain functions.

    Decorators in it would load torch's compiler, which nothing here uses: more than a second of every start.
    """
    from deepspeed.runtime import compiler

    decorator = compiler.compile
    compiler.compile = lambda: compiler.dummy_decorator
    try:
        import deepspeed.runtime.zero.muon.original_muon  # noqa: F401
    finally:
        compiler.compile = decorator


def is_lost_connection(error: RuntimeError) -> bool:
    """Returns whether another rank's end caused this error."""
    return isinstance(error, dist.DistError) or "gloo" in str(error) or "onnection" in str(error)


def seed_generators(seed: int) -> None:
    """Seeds every generator of this process: Python's, numpy's, torch's on all devices."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def leave(code: int) -> None:
    """Ends the process at once: gloo's worker threads can abort an interpreter that shuts down the ordinary way."""
    end_stopped_children()
    remove_own_folder()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
