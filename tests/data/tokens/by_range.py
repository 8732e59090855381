"""Token files that are read by range: their names, and what was asked for."""

import dataclasses
from collections import Counter
from pathlib import Path

from data.config import DataConfig
from data.fetch.sparse import BLOCK_BYTES
from tests.data.fetch.server import FileServer

NAMES = [f"mix/source{number % 2}/part-{number}.npy" for number in range(4)]
ROW = 1024  # tokens: four rows are a block


def at(local: DataConfig, server: FileServer, cache: Path) -> DataConfig:
    return dataclasses.replace(local, root=server.url, cache_dir=str(cache))


def asked_for(server: FileServer) -> Counter[tuple[str, int]]:
    """How often each block was asked for."""
    blocks: Counter[tuple[str, int]] = Counter()
    for method, name, extent in server.seen:
        if method == "GET" and extent:
            first, last = map(int, extent.removeprefix("bytes=").split("-"))
            blocks.update((name, block) for block in range(first // BLOCK_BYTES, last // BLOCK_BYTES + 1))
    return blocks
