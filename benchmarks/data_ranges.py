"""Token files by byte range: how soon the first batch is there, how many rows a second, and how many bytes for them.

    python -m benchmarks.data_ranges          a local web server that waits 50 ms before each answer, two minutes
    python -m benchmarks.data_ranges --s3     through s3fs and a local moto server (pip install s3fs 'moto[server,s3]')

The server answers as if it held as many files, rows and bytes as the published mix, all zeros. It is a process of its
own on the same cores. Clock time, and CPU time of the reader: waiting for answers is what is measured.
"""

import argparse
import asyncio
import dataclasses
import importlib.util
import logging
import multiprocessing
import os
import re
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from benchmarks.figures import Figure, Origin, leave_out, report
from data.config import DataConfig, DataKind
from data.fetch.quota import GIB, CopyQuota
from data.fetch.ranges import Part, RangeReader
from data.fetch.roots import open_root
from data.fetch.sparse import BLOCK_BYTES, SparseCopy
from data.stream import BatchStream, build_stream
from data.tokens.backend import TokenBackend
from data.tokens.files import TOKEN_DTYPE, list_token_files

LENGTH = 4096
ROW_BYTES = LENGTH * TOKEN_DTYPE.itemsize
NUM_FILES, PUBLISHED_TOKENS = 576, 51_470_000_000
FILE_BYTES = PUBLISHED_TOKENS // NUM_FILES * TOKEN_DTYPE.itemsize
RANGE = re.compile(rb"(?i)\r\nrange: bytes=(\d+)-(\d*)")
GPU_TOKENS = 63_000  # per second
ROWS_PER_SECOND = {gpus: gpus * GPU_TOKENS / LENGTH for gpus in (8, 64)}
WORKERS = 2
RANKS = 8
MOST_SECONDS = 2.0


def main() -> None:
    """Measures everything."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.data_ranges", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--latency", type=float, default=0.05, help="seconds before each answer (default: 0.05)")
    parser.add_argument("--rows", type=int, default=4000, help="of each measurement of rows a second (default: 4000)")
    parser.add_argument("--s3", action="store_true", help="read through s3fs from moto, without added latency")
    arguments = parser.parse_args()
    logging.basicConfig(format="%(message)s")
    if arguments.s3 and (absent := [name for name in ("s3fs", "moto") if importlib.util.find_spec(name) is None]):
        leave_out(f"needs {' and '.join(absent)}: pip install s3fs 'moto[server,s3]'")
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        with serving_s3(place) if arguments.s3 else serving_web(place, arguments.latency) as root:
            listed, cache = str(place / "files.txt"), str(place / "cache")
            config = DataConfig(DataKind.tokens, root, file_list=listed, eos_token_id=1, cache_dir=cache)
            measure_first_batch(config, *((64, range(16, 48)) if arguments.s3 else (512, range(10_000, 20_000))))
            for connections in (1, 8, 32):
                measure_rate(config, connections, arguments.rows)
            if not arguments.s3:
                measure_bytes(config)


def measure_first_batch(config: DataConfig, num_rows: int, steps: range) -> None:
    """Seconds to a batch of so many rows: nothing known, sizes and order known, and rows on the disk, too."""
    rng = np.random.default_rng(0)
    fresh = dataclasses.replace(config, cache_dir=f"{config.cache_dir}-{RANKS}")
    of_rank = timed_batch(fresh, 0, num_rows, RANKS)
    some, other = (int(rng.integers(steps.start, steps.stop)) for _ in range(2))
    first = timed_batch(config, 0, num_rows)
    kept = timed_batch(config, 0, num_rows)
    resumed = timed_batch(without_rows(config), some, num_rows)
    workers = timed_batch(dataclasses.replace(without_rows(config), num_workers=WORKERS), other, num_rows)
    for name, (seconds, cpu), target in (
        (f"first batch of {num_rows} rows by range, nothing known", first, MOST_SECONDS),
        (f"the same of one of {RANKS} ranks: {num_rows // RANKS} rows", of_rank, MOST_SECONDS),
        ("a resume by range, sizes and order known", resumed, MOST_SECONDS),
        (f"a resume by range with {WORKERS} data workers", workers, MOST_SECONDS),
        ("a batch of rows that have been read before", kept, None),
    ):
        report(Figure(name, seconds, "s", at_most=target), Figure(f"{name}: CPU", cpu, "s"))


def timed_batch(config: DataConfig, step: int, batch_size: int, num_ranks: int = 1) -> tuple[float, float]:
    """Seconds from nothing to a rank's part of the batch of this step, by the clock and of CPU of this process."""
    start, cpu = time.perf_counter(), time.process_time()
    with closing(open_stream(config, step, batch_size, num_ranks)) as stream:
        stream.next_batch()
        taken = time.perf_counter() - start, time.process_time() - cpu
    while config.root.startswith("http") and not any(Path(str(config.cache_dir)).glob("order-*")):
        time.sleep(0.1)  # a thread writes it
    return taken


def without_rows(config: DataConfig) -> DataConfig:
    """Returns a config with a cache folder of its own, in which sizes and orders are known and no row is."""
    known = Path(str(config.cache_dir))
    cache = Path(tempfile.mkdtemp(dir=known.parent))
    for path in (known / ".listing.json", *known.glob("order-*")):
        os.link(path, cache / path.name)
    return dataclasses.replace(config, cache_dir=str(cache))


def open_stream(config: DataConfig, step: int, batch_size: int, num_ranks: int = 1) -> BatchStream:
    """Returns the stream of the first rank that goes on at a step."""
    stream = build_stream(config, sequence_length=LENGTH, global_batch_size=batch_size, world_size=num_ranks)
    if step:
        state = {**stream.state_dict(), "batches": step, "streams": {"rows": [0, step * batch_size]}}
        stream.load_state_dict(state)
    return stream


def measure_rate(config: DataConfig, connections: int, num_rows: int) -> None:
    """Rows per second of one process that reads rows in random order."""
    root = open_root(config.root, without_rows(config).cache_dir)
    files = list_token_files(root, Path(str(config.file_list)))
    reader = RangeReader(files, CopyQuota(files, root.cache, None), connections)
    rng = np.random.default_rng(connections)
    num_rows = min(num_rows, 200 * connections)
    numbers = rng.integers(0, files[0].num_bytes // BLOCK_BYTES, num_rows)
    parts = [
        Part(int(file), int(row) * BLOCK_BYTES, (int(row) + 1) * BLOCK_BYTES)
        for file, row in zip(rng.integers(0, len(files), num_rows), numbers, strict=True)
    ]
    reader.expect(parts[:connections])  # which opens connections
    reader.read(parts[:connections])
    start, cpu = time.perf_counter(), time.process_time()
    reader.expect(parts)
    reader.read(parts)
    reader.close()
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    needed = ", ".join(f"{number:,.0f} for {gpus} GPUs" for gpus, number in ROWS_PER_SECOND.items())
    name = f"rows by range, one process, connections: {connections}"
    report(
        Figure(f"{name} (needed of all processes: {needed})", num_rows / seconds, "rows/s"),
        Figure(f"{name}: CPU of a row", cpu / num_rows * 1e3, "ms"),
    )


def measure_bytes(config: DataConfig) -> None:
    """Bytes fetched over bytes used by one process, without a bound and with a small one."""
    rows, steps = 128, 100
    used = rows * steps * ROW_BYTES
    for name, share in (("no bound", None), ("a cache of half of what is read", 0.5)):
        gib = None if share is None else (share * used + 170e6) / GIB  # order, digests and listing lie there, too
        bounded = dataclasses.replace(without_rows(config), max_cache_gib=gib)
        backend = TokenBackend(bounded, LENGTH, rows)
        reader = backend.rows.ranges
        assert reader is not None
        batches = backend.read(range(rows), backend.start(range(rows)))
        largest = 0
        for _ in range(steps):
            next(batches)
            largest = max(largest, sum(SparseCopy(file).num_allocated() for file in reader.files))
        ahead = backend.num_ahead * rows * ROW_BYTES  # at most: fetched, and used by the next steps
        fetched = reader.num_fetched
        reader.close()
        what = f"rows by range, {name}: bytes"
        report(
            Figure(f"{what} fetched, of those used", fetched / used, origin=Origin.counted),
            Figure(f"{what} fetched ahead at most, of those used", ahead / used, origin=Origin.counted),
            Figure(f"{what} of the copies at most, of those used", largest / used, origin=Origin.counted),
        )


@contextmanager
def serving_web(place: Path, latency: float) -> Iterator[str]:
    """Yields the address of a web server of the published size, in a process of its own."""
    (place / "files.txt").write_text("\n".join(f"part-{number:03}.npy" for number in range(NUM_FILES)))
    ours, theirs = multiprocessing.Pipe()
    server = multiprocessing.get_context("fork").Process(target=serve, args=(latency, theirs), daemon=True)
    server.start()
    try:
        yield f"http://127.0.0.1:{ours.recv()}"
    finally:
        server.kill()
        server.join()


def serve(latency: float, port: Connection) -> None:
    """Answers HEAD and GET with a byte range, each after `latency` seconds, over kept-alive connections."""

    async def run() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: Answering(latency), "127.0.0.1", 0, backlog=1024)
        port.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(run())


class Answering(asyncio.Protocol):
    """One connection to a server of files of zeros; does as little as it can, for it takes the reader's cores."""

    def __init__(self, latency: float) -> None:
        self._latency = latency
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keeps where to answer."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Answers each whole request, later."""
        *requests, self._received = (self._received + data).split(b"\r\n\r\n")
        for request in requests:
            asyncio.get_running_loop().call_later(self._latency, self._transport.write, respond(request))


def respond(request: bytes) -> bytes:
    """Returns the answer to a HEAD or GET, of a byte range if it asks for one."""
    asked = RANGE.search(request)
    start, stop = (int(asked[1]), int(asked[2] or FILE_BYTES - 1) + 1) if asked else (0, FILE_BYTES)
    status = b"206 Partial\r\nContent-Range: bytes %d-%d/%d" % (start, stop - 1, FILE_BYTES) if asked else b"200 OK"
    headers = b'HTTP/1.1 %b\r\nContent-Length: %d\r\nETag: "1"\r\n\r\n' % (status, stop - start)
    return headers if request.startswith(b"HEAD") else headers + bytes(stop - start)


@contextmanager
def serving_s3(place: Path) -> Iterator[str]:
    """Yields the address of a bucket in a local moto server, a process of its own: 16 files of 4 MiB."""
    ours, theirs = multiprocessing.Pipe()
    server = multiprocessing.get_context("fork").Process(target=serve_s3, args=(theirs,), daemon=True)
    server.start()
    login = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "y", "AWS_DEFAULT_REGION": "us-east-1"}
    os.environ.update(login, AWS_ENDPOINT_URL=f"http://127.0.0.1:{ours.recv()}")
    import s3fs

    bucket = s3fs.S3FileSystem()
    bucket.mkdir("mix")
    names = [f"part-{number}.npy" for number in range(16)]
    for name in names:
        bucket.pipe_file(f"mix/{name}", bytes(1 << 22))
    (place / "files.txt").write_text("\n".join(names))
    try:
        yield "s3://mix"
    finally:
        server.kill()
        server.join()


def serve_s3(port: Connection) -> None:
    """Answers as S3 does, from memory, until it is killed."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line for each request
    server = ThreadedMotoServer("127.0.0.1", 0)
    server.start()
    port.send(server.get_host_and_port()[1])
    threading.Event().wait()


if __name__ == "__main__":
    main()
