"""Token files by byte range: how soon the first batch is there, how many rows a second, and how many bytes for them.

    python -m benchmarks.data_ranges          a local web server that waits 50 ms before each answer, two minutes
    python -m benchmarks.data_ranges --s3     through s3fs and a local moto server (pip install s3fs 'moto[server,s3]')

The server holds as many files, rows and bytes as the published mix, as sparse files that take no space. It is a process
of its own on the same cores. Clock time, not CPU time: waiting for answers is what is measured.
"""

import argparse
import asyncio
import contextlib
import dataclasses
import importlib.util
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

from benchmarks.figures import Figure, Origin, leave_out, report
from data.config import DataConfig, DataKind
from data.fetch.quota import GIB, CopyQuota
from data.fetch.ranges import Part, RangeReader
from data.fetch.roots import open_root
from data.fetch.sparse import BLOCK_BYTES, SparseCopy
from data.stream import BatchStream, build_stream
from data.tokens.backend import TokenBackend
from data.tokens.files import TOKEN_DTYPE, list_token_files

LENGTH, BATCH_SIZE = 4096, 512
ROW_BYTES = LENGTH * TOKEN_DTYPE.itemsize
NUM_FILES, PUBLISHED_TOKENS = 576, 51_470_000_000
GPU_TOKENS = 63_000  # per second
ROWS_PER_SECOND = {gpus: gpus * GPU_TOKENS / LENGTH for gpus in (8, 64)}
WORKERS = 2
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
            measure_first_batch(config, range(8, 24) if arguments.s3 else range(10_000, 20_000))
            for connections in (1, 8, 32):
                measure_rate(config, connections, arguments.rows)
            if not arguments.s3:
                measure_bytes(config)


def measure_first_batch(config: DataConfig, steps: range) -> None:
    """Seconds to a batch of 512 rows: nothing known, sizes and order known, and rows on the disk, too."""
    rng = np.random.default_rng(0)
    some, other = (int(rng.integers(steps.start, steps.stop)) for _ in range(2))
    first = timed_batch(config, 0)
    kept = timed_batch(config, 0)
    resumed = timed_batch(without_rows(config), some)
    workers = timed_batch(dataclasses.replace(without_rows(config), num_workers=WORKERS), other)
    for name, (seconds, cpu), target in (
        ("first batch of 512 rows by range, nothing known", first, MOST_SECONDS),
        ("a resume by range, sizes and order known", resumed, MOST_SECONDS),
        (f"a resume by range with {WORKERS} data workers", workers, MOST_SECONDS),
        ("a batch of rows that have been read before", kept, None),
    ):
        report(Figure(name, seconds, "s", at_most=target), Figure(f"{name}: CPU", cpu, "s"))


def timed_batch(config: DataConfig, step: int) -> tuple[float, float]:
    """Seconds from nothing to the batch of this step, by the clock and of CPU of this process."""
    start, cpu = time.perf_counter(), time.process_time()
    with closing(open_stream(config, step)) as stream:
        stream.next_batch()
        return time.perf_counter() - start, time.process_time() - cpu


def without_rows(config: DataConfig) -> DataConfig:
    """Returns a config with a cache folder of its own, in which sizes and orders are known and no row is."""
    known = Path(str(config.cache_dir))
    cache = Path(tempfile.mkdtemp(dir=known.parent))
    for path in (known / ".listing.json", *known.glob("order-*")):
        os.link(path, cache / path.name)
    return dataclasses.replace(config, cache_dir=str(cache))


def open_stream(config: DataConfig, step: int) -> BatchStream:
    """Returns the stream that goes on at a step."""
    stream = build_stream(config, sequence_length=LENGTH, global_batch_size=BATCH_SIZE)
    if step:
        state = {**stream.state_dict(), "batches": step, "streams": {"rows": [0, step * BATCH_SIZE]}}
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
        gib = None if share is None else (share * used + 60e6) / GIB  # the order and the listing lie there, too
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
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):  # until the client ends
            while True:
                request = (await reader.readuntil(b"\r\n\r\n")).decode()
                await asyncio.sleep(latency)
                writer.write(respond(folder, request))
                await writer.drain()
        writer.close()

    async def run() -> None:
        server = await asyncio.start_server(answer, "127.0.0.1", 0, backlog=1024)
        port.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(run())


def respond(folder: Path, request: str) -> bytes:
    """Returns the answer to a HEAD or GET, of a byte range if it asks for one."""
    method, path, _ = request.split(" ", 2)
    file = folder / path.lstrip("/")
    size = file.stat().st_size
    asked = re.search(r"(?i)\r\nrange: bytes=(\d+)-(\d*)", request)
    start, stop = (int(asked[1]), int(asked[2] or size - 1) + 1) if asked else (0, size)
    status = f"206 Partial\r\nContent-Range: bytes {start}-{stop - 1}/{size}" if asked else "200 OK"
    headers = f'HTTP/1.1 {status}\r\nContent-Length: {stop - start}\r\nETag: "{file.name}"\r\n\r\n'
    if method == "HEAD":
        return headers.encode()
    with file.open("rb") as content:
        return headers.encode() + os.pread(content.fileno(), stop - start, start)


@contextmanager
def serving_s3(place: Path) -> Iterator[str]:
    """Yields the address of a bucket in a local moto server: four files of 64 MiB, which it holds in memory."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line for each request
    server = ThreadedMotoServer("127.0.0.1", 0)
    server.start()
    host, port = server.get_host_and_port()
    login = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "y", "AWS_DEFAULT_REGION": "us-east-1"}
    os.environ.update(login, AWS_ENDPOINT_URL=f"http://{host}:{port}")
    import s3fs

    bucket = s3fs.S3FileSystem()
    bucket.mkdir("mix")
    names = [f"part-{number}.npy" for number in range(4)]
    for name in names:
        bucket.pipe_file(f"mix/{name}", bytes(1 << 26))
    (place / "files.txt").write_text("\n".join(names))
    try:
        yield "s3://mix"
    finally:
        server.stop()


if __name__ == "__main__":
    main()
