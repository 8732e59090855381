"""Worker processes that prepare a rank's rows ahead of need.

Worker w reads its own range of the rank's slots and has a pipe of its own, so workers share nothing: the end of one is
seen at once at its pipe, in the middle of a step's rows too, and leaves the others as they are. torch's DataLoader, by
contrast, shares one pipe and its lock between workers, and raises from a signal handler, wherever the trainer is, when
one of them ends. The parts of each step are taken in slot order. Cursors come with the rows, so how far a worker is
ahead makes no difference.
"""

import multiprocessing
import os
import pickle
import queue
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Mapping
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from multiprocessing.util import Finalize
from typing import Any

import numpy as np

from common.processes import end_with_parent
from data.errors import DataError, explained_read_errors
from data.rows import Backend, Rows, split_evenly

START_METHOD = "fork" if sys.platform == "linux" else "spawn"
"""How workers are started. Under Python 3.14's default, forkserver, a worker's parent is not its trainer."""


class WorkerPool:
    """The steps of a range of slots, read by up to `num_workers` processes; `close` ends them."""

    def __init__(
        self, backend: Backend, slots: range, cursors: Mapping[str, Any], num_workers: int, prefetch: int
    ) -> None:
        # Workers are the parallelism; a tokenizer's own threads do not survive the fork, and it warns of that.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        self._processes: list[BaseProcess] = []
        self._pipes: list[Connection] = []
        # Ends the processes at exit, too, before Python waits for them; never in a process forked from this one.
        self.close = Finalize(self, _end, (self._processes, self._pipes), exitpriority=0)
        num_workers = min(num_workers, len(slots))
        for worker in range(num_workers):
            own = split_evenly(len(slots), worker, num_workers)
            try:
                self._start(backend, slots[own.start : own.stop], cursors, prefetch)
            except OSError as error:
                self.close()
                raise DataError(
                    f"data worker {worker} of {num_workers} could not be started ({error.strerror}): raise the limits "
                    "of processes, open files or memory, or set data.num_workers lower"
                ) from error

    def _start(self, backend: Backend, slots: range, cursors: Mapping[str, Any], prefetch: int) -> None:
        ours, theirs = multiprocessing.Pipe(duplex=False)
        self._pipes.append(ours)
        with theirs:  # closed before the next worker is started: the pipe has no writer but its worker, and so an end
            context: Any = multiprocessing.get_context(START_METHOD)
            job = (backend, slots, cursors, prefetch, theirs, os.getpid())
            process = context.Process(target=_work, args=job, daemon=True, name="data worker")
            process.start()
            self._processes.append(process)

    def __iter__(self) -> Iterator[list[Rows]]:
        while self._pipes:
            yield [self._receive(worker) for worker in range(len(self._pipes))]

    def _receive(self, worker: int) -> Rows:
        try:
            part = _receive(self._pipes[worker])
        except (EOFError, OSError) as error:  # OSError: the end came within a message
            raise DataError(self._describe_end(worker)) from error
        if isinstance(part, str):
            raise DataError(part)
        assert isinstance(part, Rows)
        return part

    def _describe_end(self, worker: int) -> str:
        process = self._processes[worker]
        process.join()
        name = f"data worker {worker} of {len(self._processes)} (process {process.pid})"
        if process.exitcode is None:  # SIGCHLD is ignored, so that the kernel keeps no exit codes
            return f"{name} has ended: its traceback is above, or there is a lack of memory"
        if process.exitcode < 0:
            return f"{name} was ended by {signal.Signals(-process.exitcode).name}: look for a lack of memory"
        return f"{name} ended with exit code {process.exitcode}: its traceback is above"


def _end(processes: list[BaseProcess], pipes: list[Connection]) -> None:
    """Ends the processes at once, stopped ones included: whatever they write is written whole or not at all."""
    for process in processes:
        process.kill()
    for process in processes:
        process.join()
    for pipe in pipes:
        pipe.close()
    processes.clear()
    pipes.clear()


def _work(
    backend: Backend, slots: range, cursors: Mapping[str, Any], prefetch: int, output: Connection, parent: int
) -> None:
    """Sends the rows of each step, or the sentence that says why they cannot be read, as the last thing."""
    # Ctrl-C and a scheduler's signals reach every process of the job; only the trainer acts on them.
    for number in (signal.SIGINT, signal.SIGUSR1, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    end_with_parent(parent, signal.SIGKILL)  # which also ends a worker that is stopped
    ahead: queue.Queue[Rows | str | None] = queue.Queue(prefetch)
    sender = threading.Thread(target=_send, args=(ahead, output), daemon=True)
    sender.start()
    try:
        with explained_read_errors():
            for rows in backend.read(slots, cursors):
                ahead.put(rows)
    except DataError as error:
        ahead.put(str(error))
    ahead.put(None)
    sender.join()


def _send(ahead: "queue.Queue[Rows | str | None]", output: Connection) -> None:
    """Sends what is in the queue: the pickled object without its arrays, then their bytes, which are not copied."""
    try:
        while (part := ahead.get()) is not None:
            buffers: list[pickle.PickleBuffer] = []
            content = pickle.dumps(part, pickle.HIGHEST_PROTOCOL, buffer_callback=buffers.append)
            output.send((content, [buffer.raw().nbytes for buffer in buffers]))
            for buffer in buffers:
                rest = buffer.raw()
                while rest:
                    rest = rest[os.write(output.fileno(), rest) :]
    except OSError:  # the trainer is gone
        os._exit(1)
    except BaseException:  # without this thread the worker would wait for ever, and the trainer with it
        traceback.print_exc()
        os._exit(1)


def _receive(pipe: Connection) -> Any:
    """Returns what `_send` sent. Raises EOFError or OSError if the other side ended before the last byte."""
    content, sizes = pipe.recv()
    buffers = [np.empty(size, np.uint8) for size in sizes]
    for buffer in buffers:
        rest = buffer.data
        while rest:
            count = os.readv(pipe.fileno(), [rest])
            if not count:
                raise EOFError
            rest = rest[count:]
    return pickle.loads(content, buffers=buffers)
