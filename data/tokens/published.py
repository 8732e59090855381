"""The order in which the published run read its rows, and a copy of it on disk.

Shuffling the 12.6 million rows of the stage-2 files takes a second, in every process and at every start; reading the
result back takes a twentieth of that.
"""

import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np

from common.files import write_whole

MIN_KEPT_ROWS = 1_000_000  # fewer are shuffled in less time than a file takes to read


def published_order(num_rows: int, seed: int, epoch: int) -> np.ndarray:
    """Returns the order of rows in an epoch, as OLMo's `IterableDataset` shuffles them: uint32 `[num_rows]`."""
    order = np.arange(num_rows, dtype=np.uint32)
    np.random.Generator(np.random.PCG64(seed + epoch)).shuffle(order)
    return order


def kept_order(
    folder: Path,
    num_rows: int,
    seed: int,
    epoch: int,
    submit: Callable[[Callable[[], None]], object] = lambda keep: keep(),
) -> np.ndarray:
    """Returns the same from a file in `folder`; shuffles again where that is damaged or cannot be written.

    `submit` is given what writes the file, to be called at any time.
    """
    if num_rows < MIN_KEPT_ROWS:
        return published_order(num_rows, seed, epoch)
    path = folder / f"order-{num_rows}-{seed}-{epoch}.u32"
    with suppress(OSError):
        kept = np.fromfile(path, "<u4")
        if len(kept) == num_rows + 1 and zlib.crc32(kept[:-1].data) == kept[-1]:
            return kept[:-1]
    order = published_order(num_rows, seed, epoch)
    submit(lambda: _keep(path, order))
    return order


def _keep(path: Path, order: np.ndarray) -> None:
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with write_whole(path, durable=False) as output:
            content = order.astype("<u4", copy=False).data
            output.write(content)
            output.write(zlib.crc32(content).to_bytes(4, "little"))
