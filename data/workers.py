"""Worker processes that prepare a rank's rows ahead of need, by way of torch's DataLoader.

Worker w reads its own range of the rank's slots, so workers share nothing, and the DataLoader's round robin returns the
parts of each step in slot order. Cursors come with the rows, so how far a worker is ahead makes no difference.
"""

import os
import signal
import weakref
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from data.errors import DataError
from data.rows import Backend, Rows, split_evenly


class _SlotReader(IterableDataset):
    def __init__(self, backend: Backend, slots: range, cursors: Mapping[str, Any]) -> None:
        self._backend = backend
        self._slots = slots
        self._cursors = cursors

    def __iter__(self) -> Iterator[Rows | str]:
        worker = get_worker_info()
        assert worker is not None
        own = split_evenly(len(self._slots), worker.id, worker.num_workers)
        slots = self._slots[own.start : own.stop]
        try:
            yield from self._backend.read(slots, self._cursors)
        except DataError as error:
            yield str(error)  # raised by the reader: torch would wrap the message in a traceback


class WorkerPool:
    """The steps of a range of slots, read by up to `num_workers` processes; `close` ends them."""

    def __init__(
        self, backend: Backend, slots: range, cursors: Mapping[str, Any], num_workers: int, prefetch: int
    ) -> None:
        self._num_workers = min(num_workers, len(slots))
        # Workers are the parallelism; a tokenizer's own threads do not survive the fork, and it warns of that.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        loader = DataLoader(
            _SlotReader(backend, slots, cursors),
            batch_size=None,
            num_workers=self._num_workers,
            prefetch_factor=prefetch,
            collate_fn=_unchanged,
            worker_init_fn=_prepare_worker,
            generator=torch.Generator(),  # the default would advance the trainer's own random numbers
            persistent_workers=True,
        )
        # Emptying the list drops the last reference and so ends the processes; at exit, before Python waits for them.
        self._iterators = [iter(loader)]
        self.close = weakref.finalize(self, self._iterators.clear)

    def __iter__(self) -> Iterator[list[Rows]]:
        while self._iterators:
            parts = [next(self._iterators[0]) for _ in range(self._num_workers)]
            for part in parts:
                if isinstance(part, str):
                    raise DataError(part)
            yield parts


def _unchanged(part: Any) -> Any:
    return part


def _prepare_worker(worker: int) -> None:
    # Ctrl-C and a scheduler's signals reach every process of the job; only the trainer acts on them.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.signal(signal.SIGTERM, signal.SIG_DFL))  # a second one ends it
