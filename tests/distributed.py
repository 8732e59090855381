"""Real ranks on a laptop: spawned processes that join over gloo, run one function, and hand back what it returns.

A spawn costs four seconds, mostly imports, so a test gives it many cases at once and looks at the results one by one.
"""

import gc
import multiprocessing
import os
import pickle
import socket
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from train.distributed import Ranks, leave

Work = Callable[..., Any]  # work(ranks, *arguments); importable by its name, as a fresh process has to find it


def run_ranks(work: Work, world_size: int, *arguments: Any, timeout: float = 900) -> list[Any]:
    """What `work(ranks, *arguments)` returns on each of `world_size` ranks, in rank order.

    When a rank fails, or after `timeout` seconds, all are killed; raises AssertionError with the failing ranks'
    tracebacks.
    """
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as name:
        folder, port = Path(name), _free_port()
        processes = [
            context.Process(target=_rank, args=(work, rank, world_size, port, folder, arguments))
            for rank in range(world_size)
        ]
        for process in processes:
            process.start()
        late = _wait(processes, time.monotonic() + timeout)
        failures = [path.read_text() for path in sorted(folder.glob("*.traceback"))]
        codes = [process.exitcode for process in processes]
        assert not failures and not late and codes == [0] * world_size, "\n".join(
            [f"ranks ended with {codes}" + (f" after {timeout:g} seconds" if late else ""), *failures]
        )
        return [pickle.loads((folder / f"{rank}.result").read_bytes()) for rank in range(world_size)]


def freeze_modules() -> None:
    """Takes all that is loaded out of later garbage collections; to be called after a run, when that is modules only.

    Every start of a run collects, and so does every engine of ZeRO 3: with all modules that takes half a second each.
    """
    gc.collect()
    gc.freeze()


def _wait(processes: list[Any], deadline: float) -> bool:
    """Until all have ended, killing them when one fails; returns whether they were late."""
    late = False
    while any(process.is_alive() for process in processes):
        failed = any(process.exitcode not in (None, 0) for process in processes)
        late = late or time.monotonic() > deadline
        if failed or late:
            for process in processes:
                process.kill()
        time.sleep(0.02)
    return late


def _rank(work: Work, rank: int, world_size: int, port: int, folder: Path, arguments: tuple[Any, ...]) -> None:
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(world_size),
        LOCAL_WORLD_SIZE=str(world_size),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
        CUDA_VISIBLE_DEVICES="",
        TOKENIZERS_PARALLELISM="false",
    )
    multiprocessing.set_start_method("fork", force=True)  # a spawned process would spawn its data workers too
    try:
        import torch

        torch.set_num_threads(1)
        ranks = Ranks()
        ranks.join()
        (folder / f"{rank}.result").write_bytes(pickle.dumps(work(ranks, *arguments)))
        ranks.barrier()  # a rank that leaves early would look like a lost connection to the others
    except BaseException:
        (folder / f"{rank}.traceback").write_text(f"rank {rank}: {traceback.format_exc()}")
        leave(1)
    leave(0)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
