"""The order in which the published run read its rows, and a copy of it on disk, of the latest epoch.

Shuffling the 12.6 million rows of the stage-2 files takes a second, in every process and at every start; reading the
result back takes a twentieth of that. The first rows of an epoch take a third (shuffle.py), so that the first step does
not wait for the rest. A thread makes the rest during that step; the second batch waits for the whole shuffle if it is
asked for before that is done.

A thread writes the file, too. Nothing waits for it: of a run that ends within its first seconds, however it ends, the
next start shuffles again.
"""

import threading
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np

from common.files import write_whole
from data.fetch.quota import ORDER_PREFIX
from data.tokens.shuffle import first_shuffled, shuffled

Submit = Callable[[Callable[[], object]], object]

MIN_KEPT_ROWS = 1_000_000  # fewer are shuffled in less time than a file takes to read


def published_order(num_rows: int, seed: int, epoch: int) -> np.ndarray:
    """Returns the order of rows in an epoch, as OLMo's `IterableDataset` shuffles them: uint32 `[num_rows]`."""
    return shuffled(num_rows, seed + epoch)


class EpochOrder:
    """The order of one epoch, kept in `folder`; `submit` is given what may be done at any time."""

    def __init__(self, folder: Path, num_rows: int, seed: int, epoch: int, submit: Submit) -> None:
        self._folder = folder
        self._num_rows, self._seed, self._epoch = num_rows, seed, epoch
        self._submit = submit
        self._lock = threading.Lock()
        self._first = np.empty(0, np.uint32)
        self._whole: np.ndarray | None = None
        self._is_begun = False

    def __len__(self) -> int:
        return self._num_rows

    def rows(self, start: int, stop: int) -> np.ndarray:
        """Returns the rows at these places: uint32. The first ones come without the rest, if that is not there yet."""
        is_ready = self._whole is not None or self._num_rows < MIN_KEPT_ROWS or self._path.exists()
        if start or is_ready:
            return self.whole()[start:stop]
        self._first = first_shuffled(self._num_rows, self._seed + self._epoch, stop)
        return self._first

    def whole(self) -> np.ndarray:
        """Returns all of it: uint32 `[num_rows]`; waits for a thread that is making it."""
        with self._lock:
            if self._whole is None:
                order = kept_order(self._folder, self._num_rows, self._seed, self._epoch, self._submit)
                if not np.array_equal(order[: len(self._first)], self._first):
                    raise RuntimeError("numpy shuffles in another way than data/tokens/shuffle.py does")
                self._whole = order
            return self._whole

    def make_rest(self) -> None:
        """Begins to make all of it in the background, at the first call, if only the first rows are there."""
        if self._whole is None and len(self._first) and not self._is_begun:
            self._is_begun = True
            self._submit(self.whole)

    @property
    def _path(self) -> Path:
        return _path_of(self._folder, self._num_rows, self._seed, self._epoch)


def kept_order(folder: Path, num_rows: int, seed: int, epoch: int, submit: Submit = lambda keep: keep()) -> np.ndarray:
    """Returns the same from a file in `folder`; shuffles again where that is damaged or cannot be written.

    `submit` is given what writes the file, to be called at any time.
    """
    if num_rows < MIN_KEPT_ROWS:
        return published_order(num_rows, seed, epoch)
    path = _path_of(folder, num_rows, seed, epoch)
    with suppress(OSError):
        kept = np.fromfile(path, "<u4")
        if len(kept) == num_rows + 1 and zlib.crc32(kept[:-1].data) == kept[-1]:
            return kept[:-1]
    order = published_order(num_rows, seed, epoch)

    def keep() -> None:
        with suppress(OSError):
            _drop_earlier(folder, num_rows, seed, epoch)
            _keep(path, order)

    submit(keep)
    return order


def _drop_earlier(folder: Path, num_rows: int, seed: int, epoch: int) -> None:
    """Deletes the orders of earlier epochs, of which each would take as much space."""
    for earlier in range(epoch):
        _path_of(folder, num_rows, seed, earlier).unlink(missing_ok=True)


def order_bytes(num_rows: int) -> int:
    """Returns the bytes of the file that an order of so many rows is kept in."""
    return 0 if num_rows < MIN_KEPT_ROWS else 4 * num_rows + 4


def _path_of(folder: Path, num_rows: int, seed: int, epoch: int) -> Path:
    return folder / f"{ORDER_PREFIX}{num_rows}-{seed}-{epoch}.u32"


def _keep(path: Path, order: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with write_whole(path, durable=False) as output:
        content = order.astype("<u4", copy=False).data
        output.write(content)
        output.write(zlib.crc32(content).to_bytes(4, "little"))
