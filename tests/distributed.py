"""Real ranks on a laptop: processes that join over gloo and run functions.

Imports take four seconds, so ranks are forked from one process that has done them, multiprocessing's fork server, and
those of a world size stay alive for the next call. A call that fails or is late ends them, and the next call forks new
ones.
"""

import atexit
import gc
import multiprocessing
import os
import pickle
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from typing import Any

from torch.distributed import TCPStore

from train.distributed import Ranks, leave

Work = Callable[..., Any]  # work(ranks, *arguments); importable by its name, as a fresh process has to find it

_worlds: dict[int, "World"] = {}


def run_ranks(work: Work, world_size: int, *arguments: Any, timeout: float = 600) -> list[Any]:
    """Returns what `work(ranks, *arguments)` returns on each of `world_size` ranks, in rank order.

    Raises AssertionError, with the tracebacks of the failing ranks, if one fails or does not answer for `timeout`
    seconds. The limit is only there to end a hang: it is no statement about speed.
    """
    if world_size not in _worlds:
        _worlds[world_size] = World(world_size)
    try:
        return _worlds[world_size].run(work, arguments, timeout)
    except AssertionError:
        _worlds.pop(world_size).kill()
        raise


class World:
    """The processes of one world size."""

    def __init__(self, world_size: int) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["tests.preloaded"])
        self._store = rendezvous()
        self._processes = []
        self._connections: list[Connection] = []
        for rank in range(world_size):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs, rank, world_size, self._store.port), daemon=False)
            process.start()
            theirs.close()
            self._processes.append(process)
            self._connections.append(ours)
        atexit.register(self.kill)

    def run(self, work: Work, arguments: tuple[Any, ...], timeout: float) -> list[Any]:
        """Returns the results of one call in rank order; raises AssertionError."""
        job = pickle.dumps((work, arguments))
        for connection in self._connections:
            connection.send_bytes(job)
        answers: dict[int, Any] = {}
        failures: list[str] = []
        deadline = time.monotonic() + timeout
        while len(answers) < len(self._connections) and not failures:
            waiting = [connection for rank, connection in enumerate(self._connections) if rank not in answers]
            ready = wait(waiting, max(0.0, deadline - time.monotonic()))
            assert ready, f"ranks {[r for r in range(len(self._connections)) if r not in answers]} do not answer"
            for answering in ready:
                assert isinstance(answering, Connection)
                rank = self._connections.index(answering)
                try:
                    answers[rank], failure = pickle.loads(answering.recv_bytes())
                except EOFError:
                    self._processes[rank].join()
                    failure = f"rank {rank} ended with {self._processes[rank].exitcode}"
                failures += [failure] if failure else []
        assert not failures, "\n".join(failures)
        return [answers[rank] for rank in range(len(self._connections))]

    def kill(self) -> None:
        """Ends all processes at once."""
        for process in self._processes:
            process.kill()
            process.join()


def freeze_modules() -> None:
    """Takes all that is loaded out of later garbage collections; to be called after a run, when that is modules only.

    Every start of a run collects, and so does every engine of ZeRO 3: with all modules that takes half a second each.
    """
    gc.collect()
    gc.freeze()


def rendezvous() -> TCPStore:
    """Returns a store at which ranks meet, at a port that the kernel chooses; like torchrun's, it is in no rank."""
    return TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)


def be_rank(rank: int, world_size: int, port: int) -> None:
    """Sets the environment of one of the ranks that meet at the store of this port."""
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(world_size),
        LOCAL_WORLD_SIZE=str(world_size),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
        TORCHELASTIC_USE_AGENT_STORE="True",  # rank 0 is to start no store of its own
        CUDA_VISIBLE_DEVICES="",
    )


def _serve(connection: Connection, rank: int, world_size: int, port: int) -> None:
    be_rank(rank, world_size, port)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    multiprocessing.set_start_method("fork", force=True)  # a spawned process would spawn its data workers too
    import torch

    torch.set_num_threads(1)
    ranks: Ranks | None = None
    while True:
        try:
            work, arguments = pickle.loads(connection.recv_bytes())
        except EOFError:  # the tests are over
            leave(0)
        result, failure = None, None
        try:
            if ranks is None:
                ranks = Ranks()
                ranks.join()
                gc.freeze()  # what is imported by now: every run begins with a full collection, mostly of that
            result = work(ranks, *arguments)
        except BaseException:
            failure = f"rank {rank}: {traceback.format_exc()}"
        connection.send_bytes(pickle.dumps((result, failure)))
