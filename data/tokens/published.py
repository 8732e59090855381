"""The order in which the published run read its rows, and a copy of it on disk.

To shuffle the 12.6 million rows of the stage-2 files takes a second, in every process and at every start; to read the
result back takes a twentieth of that.
"""

import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np

from data.fetch.locks import atomic_write

WORTH_KEEPING = 1_000_000  # rows; fewer are shuffled in less time than it takes to look


def published_order(num_rows: int, seed: int, epoch: int) -> np.ndarray:
    """The order of rows in an epoch, as OLMo's `IterableDataset` shuffles them: uint32 `[num_rows]`."""
    order = np.arange(num_rows, dtype=np.uint32)
    np.random.Generator(np.random.PCG64(seed + epoch)).shuffle(order)
    return order


def kept_order(folder: Path, num_rows: int, seed: int, epoch: int) -> np.ndarray:
    """The same, by way of a file in `folder`; shuffled anew where that is damaged, or cannot be written."""
    if num_rows < WORTH_KEEPING:
        return published_order(num_rows, seed, epoch)
    path = folder / f"order-{num_rows}-{seed}-{epoch}.u32"
    with suppress(OSError):
        kept = np.fromfile(path, "<u4")
        if len(kept) == num_rows + 1 and zlib.crc32(kept[:-1].data) == kept[-1]:
            return kept[:-1]
    order = published_order(num_rows, seed, epoch)
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as output:
            content = order.astype("<u4").tobytes()
            output.write(content + zlib.crc32(content).to_bytes(4, "little"))
    return order
