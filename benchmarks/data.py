"""Both kinds of data against `datasets` streaming, doing the same work in one process in turn, on one core.

    python -m benchmarks.data                                      the sample mix and its own tokenizer, a minute
    python -m benchmarks.data --tokenizer dolma2-tokenizer.json    the tokenizer of the real mix

Text is measured twice: documents per second before any tokenising, and tokens per second to rows. Ours reads compressed
files once and its own frames from then on, so both are given. `datasets` encodes with `tokenizers`, ours with what
`data.encoder=auto` takes; the encoders alone: python -m benchmarks.encoders.
"""

import argparse
import dataclasses
import itertools
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

os.environ.update(TOKENIZERS_PARALLELISM="false", OMP_NUM_THREADS="1", HF_DATASETS_DISABLE_PROGRESS_BARS="1")

import numpy as np
from datasets import IterableDataset, load_dataset

from benchmarks.figures import Figure, report
from data.config import DataConfig, DataKind, EncoderKind, SourceConfig
from data.fast_encoder import load_fast
from data.fetch.files import find_files, read_manifest
from data.stream import BatchStream, build_stream
from data.text.frames import RecordCounts
from data.text.ingest import FrameCache
from data.text.records import read_records
from data.tokenizer import EOS_TOKEN, DocumentEncoder, load_tokenizer
from data.tokens.backend import STREAM
from data.tokens.files import TOKEN_DTYPE
from data.tools.convert import plan
from data.tools.sample import build_sample

LENGTH, BATCH_SIZE, NUM_STREAMS = 4096, 16, 16
NODE_TOKENS = 8 * 63_000  # per second: eight GPUs that train at 63k tokens/s each
NPY_TOKENS = 200_000_000
PUBLISHED_TOKENS = 51_470_000_000
FIRST_PASS = 80  # batches: as many tokens as the sample holds


class Bench:
    """The inputs."""

    def __init__(self, folder: Path, tokenizer: Path, eos_token: str, seconds: float) -> None:
        self.folder = folder
        self.paths = sorted(str(path) for path in folder.glob("*/*.jsonl*"))
        self.tokenizer = tokenizer
        self.encoder = DocumentEncoder(tokenizer, eos_token)
        self.seconds = seconds

    def text_config(self, cache: str) -> DataConfig:
        sources = {path.name: SourceConfig([f"{path.name}/*"], 1.0) for path in self.folder.iterdir() if path.is_dir()}
        return DataConfig(
            root=str(self.folder),
            sources={name: source for name, source in sources.items() if not name.startswith(".")},
            tokenizer=str(self.tokenizer),
            eos_token=self.encoder_eos,
            num_streams=NUM_STREAMS,
            cache_dir=str(self.folder.parent / cache),
        )

    @property
    def encoder_eos(self) -> str:
        return self.encoder.decode(np.array([self.encoder.eos_token_id]))


def compare(what: str, ours: float, theirs: float, unit: str, times: float | None, least: float | None = None) -> None:
    """Reports a rate of ours, and how many times that of `datasets` it is, with their targets."""
    report(
        Figure(what, ours, unit, at_least=least),
        Figure(f"{what}: times `datasets` with `tokenizers`", ours / theirs, at_least=times),
    )


def rate(amounts: Iterator[int], seconds: float) -> float:
    """Amounts per CPU second, over this long or until they end; what else the machine does hardly matters to it."""
    total, start = 0, time.process_time()
    for amount in amounts:
        total += amount
        if time.process_time() - start > seconds:
            break
    return total / (time.process_time() - start)


def streamed(bench: Bench) -> IterableDataset:
    """Reads the same files through the library's own streaming."""
    return load_dataset("json", data_files={"train": bench.paths}, split="train", streaming=True)


def packed(bench: Bench) -> IterableDataset:
    """Tokenises and packs with `map`, the usual recipe of the library."""

    def pack(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        tokens = bench.encoder.encode([text for text in batch["text"] if text])
        num_rows = len(tokens) // LENGTH
        return {"tokens": list(tokens[: num_rows * LENGTH].reshape(num_rows, LENGTH))}

    columns = ["id", "text", "source", "added", "created", "metadata"]
    return streamed(bench).map(pack, batched=True, batch_size=256, remove_columns=columns).with_format("numpy")


def measure_documents(bench: Bench) -> None:
    """Documents per second before tokenising: read from the files, as both do once, and from our cache of frames."""
    files = find_files(bench.folder, ["*/*.jsonl*"], "files", read_manifest(bench.folder))
    start = time.process_time()
    frames = FrameCache(bench.folder.parent / "frames", DataConfig.frame_bytes, 0.0).open(files)
    ingest = sum(file.counts.text_bytes for file in frames) / 1e6 / (time.process_time() - start)
    readers: dict[str, Callable[[], Iterator[int]]] = {
        "files": lambda: (1 for file in files for _ in read_records(file, RecordCounts())),
        "frames": lambda: (len(file.read_frame(n)) for file in frames for n in range(len(file.num_documents))),
        "datasets": lambda: (1 for _ in streamed(bench)),
    }
    best = dict.fromkeys(readers, 0.0)
    for _ in range(3):  # in turn: what else the machine does hits all of them
        for name, reader in readers.items():
            best[name] = max(best[name], rate(reader(), bench.seconds))
    compare("documents before tokenising, from frames", best["frames"], best["datasets"], "a second", 5)
    compare("documents from the compressed files, once", best["files"], best["datasets"], "a second", 5)
    report(Figure(f"ingest of {len(files)} small files", ingest, "MB of text a second"))


def measure_text(bench: Bench) -> None:
    """Tokens per second to rows of 4,096, with encoders that are loaded."""
    shape = {"sequence_length": LENGTH, "global_batch_size": BATCH_SIZE}
    batches = endless(build_stream(bench.text_config("frames"), **shape))
    slow = dataclasses.replace(bench.text_config("frames"), encoder=EncoderKind.tokenizers)
    slow_batches = endless(build_stream(slow, **shape))
    for started in (batches, slow_batches):  # each stream opens each source
        rate((batch.tokens.size for batch in itertools.islice(started, 20)), 60.0)
    best = dict.fromkeys(("frames", "files", "slow", "datasets"), 0.0)
    for turn in range(3):
        readers: dict[str, Callable[[], Iterator[int]]] = {
            "frames": lambda: (batch.tokens.size for batch in batches),
            "files": partial(first_pass, bench, f"fresh-{turn}"),
            "slow": lambda: (batch.tokens.size for batch in slow_batches),
            "datasets": lambda: (len(row["tokens"]) for row in packed(bench)),
        }
        for name, reader in readers.items():
            seconds = {"files": 60.0, "datasets": max(4.0, 2 * bench.seconds)}.get(name, 2 * bench.seconds)
            best[name] = max(best[name], rate(reader(), seconds))  # `datasets` tokenises for a second before it yields
    theirs = best["datasets"]
    compare("text to rows, from frames", best["frames"], theirs, "tokens/s", None, 8e6)
    compare("text to rows, from the compressed files, once", best["files"], theirs, "tokens/s", 8, 5e6)
    compare("text to rows, from frames, data.encoder=tokenizers", best["slow"], theirs, "tokens/s", None)
    what = "cores for 8 GPUs at 63k tokens/s each"
    report(
        Figure(what, NODE_TOKENS / best["frames"], at_most=0.10),
        Figure(f"{what}, `datasets`", NODE_TOKENS / theirs),
    )


def first_pass(bench: Bench, cache: str) -> Iterator[int]:
    """Reads compressed files that are in no cache: as many tokens as they hold, the stream's building included."""
    with closing(
        build_stream(bench.text_config(cache), sequence_length=LENGTH, global_batch_size=BATCH_SIZE)
    ) as stream:
        for _ in range(FIRST_PASS):
            yield stream.next_batch().tokens.size


def measure_tokenize(bench: Bench) -> None:
    """Tokens per second of `python -m data tokenize`: of a process with loaded encoders, then of the whole command."""
    rates, seconds = {}, {}
    for kind in (EncoderKind.auto, EncoderKind.tokenizers):
        target = bench.folder.parent / f"tokenized-{kind.value}"
        encoder = DocumentEncoder(bench.tokenizer, bench.encoder_eos, kind)
        conversions = plan(bench.folder, target, encoder, 0.001)
        for conversion in conversions:
            conversion.target.parent.mkdir(parents=True, exist_ok=True)
        encoder.load()
        rates[kind] = rate((conversion.run()["tokens"] for conversion in conversions), 600.0)
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        command = [sys.executable, "-m", "data", "tokenize", str(bench.folder), f"{target}-2", "--processes=1"]
        options = [f"--encoder={kind.value}", f"--tokenizer={bench.tokenizer}", f"--eos-token={bench.encoder_eos}"]
        subprocess.run([*command, *options], check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds[kind] = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    rate_of_ours, rate_of_theirs = rates.values()
    what = "`data tokenize`"
    report(
        Figure(f"{what}, encoder loaded", rate_of_ours, "tokens/s"),
        Figure(f"{what}, encoder loaded: times tokenizers", rate_of_ours / rate_of_theirs, at_least=8),
        Figure(f"{what}, the whole command on the sample of 18 MB", seconds[EncoderKind.auto], "s"),
        Figure(f"{what}, the whole command with tokenizers", seconds[EncoderKind.tokenizers], "s"),
    )


def measure_tokens(bench: Bench) -> None:
    """Rows of token files in the published order, with the repetition filter and without."""
    config = npy_config(bench)
    for name, enabled in ((".npy to rows", False), (".npy to rows, with the repetition filter", True)):
        rule = dataclasses.replace(config.repetition_filter, enabled=enabled)
        stream = build_stream(
            dataclasses.replace(config, repetition_filter=rule), sequence_length=LENGTH, global_batch_size=512
        )
        batches = endless(stream)
        rate((batch.tokens.size for batch in itertools.islice(batches, 60)), 60.0)  # into the page cache
        tokens_per_second = max(rate((batch.tokens.size for batch in batches), bench.seconds / 2) for _ in range(3))
        report(Figure(name, tokens_per_second, "tokens/s", at_least=None if enabled else 3e8))


def measure_start(bench: Bench) -> None:
    """Measures CPU seconds from nothing to the next batch: build, load tokenizer and state, read."""
    rng = random.Random(1)
    config, step = published_size(bench), rng.randrange(10_000, 20_000)
    stream = build_stream(config, sequence_length=LENGTH, global_batch_size=512)
    state = {**stream.state_dict(), "batches": step, "streams": {STREAM: [0, step * 512]}}
    first = timed(lambda: resume(config, 512, state))
    while not any(bench.folder.parent.glob("published/.frames/order-*")):
        time.sleep(0.1)  # a thread writes it within the first steps of a run
    what = f"first batch, .npy of the published size, step {step}"
    report(
        Figure(what, timed(lambda: resume(config, 512, state)), "s", at_most=0.1),
        Figure(f"{what}, the first time, when its order is made", first, "s"),
    )
    config, step = bench.text_config("frames"), rng.randrange(60, 120)
    stream = build_stream(config, sequence_length=LENGTH, global_batch_size=BATCH_SIZE)
    fresh = json.loads(json.dumps(stream.state_dict()))
    for _ in range(step):
        stream.next_batch()
    state, expected = json.loads(json.dumps(stream.state_dict())), stream.next_batch()
    seconds = timed(lambda: resume(config, BATCH_SIZE, state))
    assert np.array_equal(resume(config, BATCH_SIZE, state), expected.tokens)
    report(
        Figure(f"first batch, text, step {step}", seconds, "s", at_most=1),
        Figure(f"first batch, text, step {step}, `datasets`", resume_of_streaming(bench, step * BATCH_SIZE), "s"),
        Figure("first batch, text, step 0", timed(lambda: resume(config, BATCH_SIZE, fresh)), "s", at_most=1),
    )
    for kept in Path(str(config.cache_dir)).glob(".encoder-*"):
        kept.unlink()
    first = timed(lambda: resume(config, BATCH_SIZE, fresh))
    slow = dataclasses.replace(config, encoder=EncoderKind.tokenizers)
    report(
        Figure("first batch, text, step 0 of the first run on these files", first, "s", at_most=1),
        Figure("first batch, text, data.encoder=tokenizers", timed(lambda: resume(slow, BATCH_SIZE, fresh)), "s"),
    )


def timed(action: Callable[[], Any]) -> float:
    """Returns CPU seconds, in a process that has loaded no tokenizer."""
    load_fast.cache_clear()
    load_tokenizer.cache_clear()
    start = time.process_time()
    action()
    return time.process_time() - start


def resume(config: DataConfig, batch_size: int, state: dict[str, Any]) -> np.ndarray:
    """Returns the tokens of the batch after `state`."""
    stream = build_stream(config, sequence_length=LENGTH, global_batch_size=batch_size)
    stream.load_state_dict(state)
    return stream.next_batch().tokens


def resume_of_streaming(bench: Bench, num_rows: int) -> float:
    """Loads the library's state and reads a row."""
    dataset = packed(bench)
    for _ in itertools.islice(dataset, num_rows):
        pass
    state = dataset.state_dict()

    def load_and_read() -> None:
        DocumentEncoder(bench.tokenizer, bench.encoder_eos)  # which ours has to load too
        dataset = packed(bench)
        dataset.load_state_dict(state)
        next(iter(dataset), None)

    return timed(load_and_read)


def published_size(bench: Bench) -> DataConfig:
    """Makes as many files, rows and bytes as the published mix has, as sparse files that take no space."""
    folder = bench.folder.parent / "published"
    folder.mkdir()
    names = [f"part-{number:03}.npy" for number in range(576)]
    for name in names:
        with (folder / name).open("wb") as file:
            file.truncate(PUBLISHED_TOKENS // len(names) * TOKEN_DTYPE.itemsize)
    (folder / "files.txt").write_text("\n".join(names))
    return DataConfig(DataKind.tokens, str(folder), file_list=str(folder / "files.txt"), eos_token_id=1)


def npy_config(bench: Bench) -> DataConfig:
    """Returns the config of token files of 0.8 GB, made on first use."""
    folder = bench.folder.parent / "tokens"
    if not folder.exists():
        folder.mkdir()
        rng = np.random.default_rng(0)
        for number in range(8):
            rng.integers(0, 4000, NPY_TOKENS // 8, TOKEN_DTYPE).tofile(folder / f"part-{number}.npy")
        (folder / "files.txt").write_text("".join(f"part-{number}.npy\n" for number in range(8)))
    return DataConfig(DataKind.tokens, str(folder), file_list=str(folder / "files.txt"), eos_token_id=0)


def endless(stream: BatchStream) -> Iterator[Any]:
    """Its batches; closed with the generator."""
    with closing(stream):
        while True:
            yield stream.next_batch()


MEASURES = {
    "documents": measure_documents,
    "text": measure_text,
    "tokenize": measure_tokenize,
    "tokens": measure_tokens,
    "start": measure_start,
}


def main() -> None:
    """Measures everything; all figures are CPU time of one core."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.data", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--tokenizer", type=Path, help="tokenizer.json (default: one trained on the sample)")
    parser.add_argument("--eos-token", default=EOS_TOKEN)
    parser.add_argument("--mix", type=Path, help="folder of `python -m data sample` (default: one is built)")
    parser.add_argument("--only", nargs="+", choices=MEASURES, default=[*MEASURES], help="what to measure")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each measurement")
    arguments = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-1:])
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "mix"
        if arguments.mix:
            folder.symlink_to(arguments.mix.resolve())
        else:
            build_sample(folder, report=lambda message: None)
        tokenizer = (arguments.tokenizer or folder / "tokenizer.json").resolve()
        bench = Bench(folder, tokenizer, arguments.eos_token, arguments.seconds)
        for name in arguments.only:
            MEASURES[name](bench)


if __name__ == "__main__":
    main()
