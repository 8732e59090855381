"""Token files by byte range: how soon the first batch is there, how many rows a second, and how many bytes for them.

    python -m benchmarks.data_ranges                a local web server that waits 50 ms before each answer, two minutes
    python -m benchmarks.data_ranges --s3           the same through s3fs and a local moto server (pip install s3fs moto)

The server holds as many files, rows and bytes as the published mix, as sparse files that take no space. It is a process
of its own on the same cores. Clock time, not CPU time: waiting for answers is what is measured.
"""

import argparse
import asyncio
import dataclasses
import logging
import multiprocessing
import os
import re
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Column, Table

from data.config import DataConfig, DataKind
from data.fetch.quota import CopyQuota
from data.fetch.ranges import Part, RangeReader
from data.fetch.roots import open_root
from data.fetch.sparse import BLOCK_BYTES, SparseCopy
from data.stream import BatchStream, build_stream
from data.tokens.backend import TokenBackend
from data.tokens.files import TOKEN_DTYPE, list_token_files

LENGTH, BATCH_SIZE = 4096, 512
NUM_FILES, PUBLISHED_TOKENS = 576, 51_470_000_000
GPU_TOKENS = 63_000  # per second
ROWS_PER_SECOND = {gpus: gpus * GPU_TOKENS / LENGTH for gpus in (8, 64)}
WORKERS = 2


def main() -> None:
    """Measures everything and prints the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.data_ranges", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--latency", type=float, default=0.05, help="seconds before each answer (default: 0.05)")
    parser.add_argument("--rows", type=int, default=4000, help="of each measurement of rows a second (default: 4000)")
    parser.add_argument("--s3", action="store_true", help="read through s3fs from moto, without added latency")
    arguments = parser.parse_args()
    logging.basicConfig(format="%(message)s")
    table = Table("", Column("measured", justify="right"), Column("target", justify="right"))
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        with serving_s3(place) if arguments.s3 else serving_web(place, arguments.latency) as root:
            config = DataConfig(
                DataKind.tokens,
                root,
                file_list=str(place / "files.txt"),
                eos_token_id=1,
                cache_dir=str(place / "cache"),
            )
            measure_first_batch(config, table)
            for connections in (1, 8, 32):
                measure_rate(config, connections, arguments.rows, table)
            measure_bytes(config, place, table)
    Console(width=110).print(table)


def measure_first_batch(config: DataConfig, table: Table) -> None:
    """Seconds to the first batch of 512 rows: nothing known, sizes and order known, and rows on the disk, too."""
    rng = np.random.default_rng(0)
    first = timed_batch(config, 0)
    again = timed_batch(config, int(rng.integers(10_000, 20_000)))
    kept = timed_batch(config, 0)
    name = "seconds to the first batch of {} rows"
    table.add_row(name.format(BATCH_SIZE) + ", a fresh cache folder", f"{first:.2f}", "2")
    table.add_row("  a resume at a random step: sizes and order are kept", f"{again:.2f}", "2")
    table.add_row("  rows that have been read before", f"{kept:.2f}", "")
    workers = timed_batch(dataclasses.replace(config, num_workers=WORKERS), int(rng.integers(10_000, 20_000)))
    table.add_row(f"  a resume with {WORKERS} data workers", f"{workers:.2f}", "2")


def timed_batch(config: DataConfig, step: int) -> float:
    """Seconds from nothing to the batch of this step."""
    start = time.perf_counter()
    with closing(open_stream(config, step)) as stream:
        stream.next_batch()
        return time.perf_counter() - start


def open_stream(config: DataConfig, step: int) -> BatchStream:
    """The stream that goes on at a step."""
    stream = build_stream(config, sequence_length=LENGTH, global_batch_size=BATCH_SIZE)
    if step:
        state = {**stream.state_dict(), "batches": step, "streams": {"rows": [0, step * BATCH_SIZE]}}
        stream.load_state_dict(state)
    return stream


def measure_rate(config: DataConfig, connections: int, num_rows: int, table: Table) -> None:
    """Rows per second of one process that reads rows in random order."""
    root = open_root(config.root, config.cache_dir)
    files = list_token_files(root, Path(str(config.file_list)))
    reader = RangeReader(files, CopyQuota(files, root.cache, None), connections)
    rng = np.random.default_rng(connections)
    num_rows = min(num_rows, 200 * connections)
    numbers = rng.integers(0, files[0].num_bytes // BLOCK_BYTES, num_rows)
    parts = [
        Part(int(file), int(row) * BLOCK_BYTES, (int(row) + 1) * BLOCK_BYTES)
        for file, row in zip(rng.integers(0, len(files), num_rows), numbers, strict=True)
    ]
    reader.read(parts[:connections])  # connections are open
    start, cpu = time.perf_counter(), time.process_time()
    reader.expect(parts)
    reader.read(parts)
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    rate = num_rows / seconds
    enough = ", ".join(f"{needed:,.0f} for {gpus} GPUs" for gpus, needed in ROWS_PER_SECOND.items())
    table.add_row(
        f"rows/s of one process with {connections} connection{'s' * (connections > 1)} ({cpu / num_rows * 1e3:.2f} ms "
        "of CPU each)",
        f"{rate:,.0f}",
        enough,
    )


def measure_bytes(config: DataConfig, place: Path, table: Table) -> None:
    """Bytes fetched over bytes used: without a bound, and with one that is a tenth of what is read."""
    steps = 100
    for name, bound in (("no bound", None), ("a cache of a fifth of what is read", steps * 8 / 1024 / 5)):
        cache = place / f"cache-{bound}"
        cache.mkdir()
        (cache / ".listing.json").write_bytes((Path(str(config.cache_dir)) / ".listing.json").read_bytes())
        bounded = dataclasses.replace(config, cache_dir=str(cache), max_cache_gib=bound)
        backend = TokenBackend(bounded, LENGTH, 128)
        reader = backend.rows.ranges
        assert reader is not None
        before, largest, batches = reader.num_fetched, 0, backend.read(range(128), backend.start(range(128)))
        for _ in range(4 * steps):
            next(batches)
            largest = max(largest, sum(SparseCopy(file).num_allocated() for file in reader.files))
        used = 4 * steps * 128 * LENGTH * TOKEN_DTYPE.itemsize
        ahead = sum(len(run) for run in [backend.rows.row_length * 4 * 128 * np.ones(backend._num_ahead)]) * 0
        table.add_row(
            f"bytes fetched / bytes used, {name} (largest size {largest / 2**20:,.0f} MiB)",
            f"{(reader.num_fetched - before) / used + ahead:.2f}",
            "",
        )


@contextmanager
def serving_web(place: Path, latency: float) -> Iterator[str]:
    """The address of a web server of the published size, in a process of its own."""
    folder, names = place / "served", []
    folder.mkdir()
    for number in range(NUM_FILES):
        names.append(f"part-{number:03}.npy")
        with (folder / names[-1]).open("wb") as file:
            file.truncate(PUBLISHED_TOKENS // NUM_FILES * TOKEN_DTYPE.itemsize)
    (place / "files.txt").write_text("\n".join(names))
    ours, theirs = multiprocessing.Pipe()
    server = multiprocessing.get_context("fork").Process(target=serve, args=(folder, latency, theirs), daemon=True)
    server.start()
    try:
        yield f"http://127.0.0.1:{ours.recv()}"
    finally:
        server.kill()
        server.join()


def serve(folder: Path, latency: float, port: Connection) -> None:
    """Answers HEAD and GET with a byte range, each after `latency` seconds, over kept-alive connections."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            try:
                request = (await reader.readuntil(b"\r\n\r\n")).decode()
            except asyncio.IncompleteReadError:
                writer.close()
                return
            await asyncio.sleep(latency)
            method, path, _ = request.split(" ", 2)
            file = folder / path.lstrip("/")
            size = file.stat().st_size
            asked = re.search(r"(?i)\r\nrange: bytes=(\d+)-(\d*)", request)
            start, stop = (int(asked[1]), int(asked[2] or size - 1) + 1) if asked else (0, size)
            status = f"206 Partial\r\nContent-Range: bytes {start}-{stop - 1}/{size}" if asked else "200 OK"
            headers = f"HTTP/1.1 {status}\r\nContent-Length: {stop - start}\r\nETag: \"{file.name}\"\r\n\r\n"
            writer.write(headers.encode())
            if method == "GET":
                with file.open("rb") as content:
                    writer.write(os.pread(content.fileno(), stop - start, start))
            await writer.drain()

    async def run() -> None:
        server = await asyncio.start_server(answer, "127.0.0.1", 0, backlog=1024)
        port.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(run())


@contextmanager
def serving_s3(place: Path) -> Iterator[str]:
    """The address of a bucket in a local moto server."""
    raise NotImplementedError


if __name__ == "__main__":
    main()
