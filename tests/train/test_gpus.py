"""Which GPU a rank takes, and what is refused: sharing one, and leaving GPUs unused in silence."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch.distributed as dist

from train.distributed import NCCL_SETTINGS, TIMEOUT, is_lost_connection
from train.errors import EXIT_USER_ERROR, TrainError
from train.gpus import own_gpu, refuse_shared, refuse_unused
from train.watchdog_config import WatchdogConfig

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(("local_rank", "num_visible", "own"), [(0, 8, 0), (7, 8, 7), (0, 1, 0), (5, 1, 0)])
def test_a_rank_takes_its_own_gpu_or_the_only_one_that_it_sees(local_rank: int, num_visible: int, own: int) -> None:
    assert own_gpu(9, local_rank, num_visible) == own


def test_more_ranks_than_gpus_are_refused() -> None:
    with pytest.raises(TrainError, match=r"rank 12 has no GPU: 4 are visible; lower launch\.processes"):
        own_gpu(12, 4, 4)


def test_ranks_that_share_a_gpu_are_refused_and_others_are_not() -> None:
    refuse_shared([("a", "GPU-1"), ("a", "GPU-2"), ("b", "GPU-1")])
    with pytest.raises(TrainError, match=r"ranks 1 and 2 have the same GPU of a: .*launch\.processes"):
        refuse_shared([("a", "GPU-1"), ("a", "GPU-2"), ("a", "GPU-2")])


def test_a_driver_that_is_too_old_is_named_with_what_torch_says() -> None:
    with pytest.raises(TrainError, match=r"^8 GPUs are here, .* built for CUDA 13\.0: too old.*[Uu]pdate the driver"):
        refuse_unused(8, "13.0", "too old (found version 11040)")


def train_beside_a_gpu(folder: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Runs the trainer where nvidia-smi lists a GPU that torch cannot use."""
    listing = folder / "nvidia-smi"
    listing.write_text('#!/bin/sh\necho "GPU 0: NVIDIA H200 (UUID: GPU-0)"\n')
    listing.chmod(0o755)
    others = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    return subprocess.run(
        [sys.executable, "-m", "train", "experiment=demo-backbone", "max_steps=1", "data.root=nowhere"],
        env={**others, "PATH": f"{folder}:{os.environ['PATH']}", **environment},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_machine_with_gpus_never_trains_on_cpus_in_silence(tmp_path: Path) -> None:
    refused = train_beside_a_gpu(tmp_path)
    assert refused.returncode == EXIT_USER_ERROR
    [line] = refused.stderr.splitlines()
    assert line.startswith("error: 1 GPUs are here, but torch cannot use them") and "CUDA_VISIBLE_DEVICES" in line


@pytest.mark.slow
def test_unless_it_is_told_to(tmp_path: Path) -> None:
    told = train_beside_a_gpu(tmp_path, CUDA_VISIBLE_DEVICES="")
    assert "GPUs are here" not in told.stderr and "nowhere" in told.stderr


def test_the_watchdog_is_the_first_to_end_a_run_on_gpus_that_waits_for_a_lost_rank() -> None:
    """It names the rank and has an exit code of its own; NCCL's limits come after the watchdog's."""
    first = max(WatchdogConfig().step_seconds, WatchdogConfig().other_seconds)
    assert TIMEOUT.total_seconds() > first
    assert int(NCCL_SETTINGS["TORCH_NCCL_HEARTBEAT_TIMEOUT_SEC"]) > first
    assert NCCL_SETTINGS["TORCH_NCCL_ASYNC_ERROR_HANDLING"] == "2"  # no abort of the process, which would hide the code
    assert is_lost_connection(dist.DistBackendError("NCCL communicator was aborted on rank 0."))
