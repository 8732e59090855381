"""What the doctor does in processes of their own, since it needs torch.

python -m launch.doctor.worker ranks                 one rank, started by torchrun; the main one prints a report
python -m launch.doctor.worker weights CONFIG        compare init_from with the model
python -m launch.doctor.worker flash-attention       import what attention calls
"""

import json
import logging
import sys
import time
from pathlib import Path
from typing import Any

from common.errors import UserError
from launch.doctor.check import node_name
from launch.doctor.reports import REPORT
from train.errors import EXIT_OK, EXIT_USER_ERROR

TURNS = 5


def report_ranks() -> int:
    """Joins the other ranks as a run does, measures an all-reduce, and prints what it found; returns the exit code."""
    from train.distributed import Ranks, leave
    from train.processes import stop_with_parent

    stop_with_parent()
    ranks = Ranks()
    ranks.join()
    report = measure(ranks)
    if ranks.is_main:
        print(f"{REPORT}{json.dumps(report)}", flush=True)
    ranks.barrier()
    leave(EXIT_OK)
    return EXIT_OK


def measure(ranks: Any) -> dict[str, Any]:
    """Returns what all ranks found; collective."""
    import torch
    import torch.distributed as dist

    on_gpu = ranks.device.type == "cuda"
    ranks.barrier()
    clocks = ranks.gather((node_name(), time.time()))
    numbers = torch.full((64_000_000 if on_gpu else 1_000_000,), float(ranks.rank + 1), device=ranks.device)
    right = ranks.world_size * (ranks.world_size + 1) / 2
    dist.all_reduce(numbers)
    is_right = all(ranks.gather(bool((numbers == right).all())))
    seconds = []
    for _ in range(TURNS):
        ranks.barrier()
        start = time.perf_counter()
        dist.all_reduce(numbers)
        if on_gpu:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    sent = 2 * (ranks.world_size - 1) / ranks.world_size * numbers.nbytes
    return {
        "world_size": ranks.world_size,
        "device": torch.cuda.get_device_name(ranks.device) if on_gpu else "cpu",
        "torch": torch.__version__,
        "backend": "nccl" if on_gpu else "gloo",
        "nccl": ".".join(map(str, torch.cuda.nccl.version())) if on_gpu else "",
        "sum_is_right": is_right,
        "bytes_per_second": sent / max(min(seconds), 1e-9),
        "clocks": clocks,
    }


def compare_weights(path: Path) -> int:
    """Prints what `init_from` holds, if it is the configured model; returns the exit code."""
    from model.weights import checked_weights
    from train.compose.app import load_run_config
    from train.huggingface.source import fetch_source, open_source

    logging.basicConfig(format="%(message)s", level=logging.INFO, stream=sys.stdout)
    config = load_run_config(path)
    assert config.init_from is not None
    source = open_source(fetch_source(config.init_from))
    checked_weights(source, config.model, config.positions, config.seed, is_conversion=True)
    print(f"{len(source.shapes)} tensors of {config.init_from} fit")
    return EXIT_OK


def import_flash_attention() -> int:
    """Prints the version of flash-attn; returns the exit code. Raises ImportError."""
    import flash_attn
    from flash_attn import flash_attn_func, flash_attn_varlen_func  # noqa: F401 - what model/attention.py calls

    print(f"flash-attn {flash_attn.__version__}")
    return EXIT_OK


def main() -> int:
    """Does what sys.argv says; returns the exit code."""
    task, *rest = sys.argv[1:]
    try:
        if task == "ranks":
            return report_ranks()
        if task == "weights":
            return compare_weights(Path(rest[0]))
        return import_flash_attention()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USER_ERROR


if __name__ == "__main__":
    sys.exit(main())
