"""What encodes text, one thread: speed, exactness, and memory over gigabytes of text whose words never stop being new.

    python -m benchmarks.encoders --tokenizer dolma2-tokenizer.json                    speed and ids, a minute
    python -m benchmarks.encoders --tokenizer dolma2-tokenizer.json --gigabytes 10     and memory, some minutes

`gigatoken` is measured too where it is installed; the project does not use it.
"""

import argparse
import itertools
import random
import string
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import psutil

from benchmarks.figures import Figure, Origin, report
from data.config import EncoderKind
from data.text.frames import RecordCounts
from data.text.records import read_records
from data.tokenizer import EOS_TOKEN, DocumentEncoder
from data.tools.sample import build_sample
from data.tools.summary import find_sources

DOCUMENTS_AT_ONCE = 32
LETTERS = string.ascii_lowercase
Encode = Callable[[Sequence[str]], np.ndarray]


def encoders(tokenizer: Path, eos_token: str) -> dict[str, Encode]:
    """Returns what is installed, by name: the tokens of documents, with EOS where it is ours."""
    plain = DocumentEncoder(tokenizer, eos_token)
    found: dict[str, Encode] = {plain.encoder: plain.encode}
    fast = DocumentEncoder(tokenizer, eos_token, EncoderKind.auto)
    found.setdefault(fast.encoder, fast.encode)
    try:
        from gigatoken.gigatoken_rs import load_hf_json
    except ImportError:
        return found
    other = load_hf_json(tokenizer.read_text())
    end = [plain.eos_token_id]
    found["gigatoken"] = lambda texts: np.concatenate([part for text in texts for part in (other.encode(text), end)])
    return found


def batches(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    """Yields the documents some at a time."""
    return (texts[start : start + DOCUMENTS_AT_ONCE] for start in range(0, len(texts), DOCUMENTS_AT_ONCE))


def measure_speed(name: str, encode: Encode, texts: Sequence[str], expected: list[np.ndarray]) -> list[np.ndarray]:
    """Reports the rate of each pass, and whether the tokens, which it returns, are the expected ones."""
    num_bytes, rates = sum(len(text.encode()) for text in texts), []
    for _ in range(2 if expected else 1):  # the first encoder is the slow one that says what is expected
        start = time.process_time()
        tokens = [encode(batch) for batch in batches(texts)]
        rates.append(num_bytes / 1e6 / (time.process_time() - start))
    same = all(np.array_equal(own, other) for own, other in zip(tokens, expected or tokens, strict=True))
    for number, rate in enumerate(rates, 1):
        report(Figure(f"encoder {name}, pass {number}", rate, "MB/s of CPU time"))
    if expected:
        report(Figure(f"encoder {name}: the same ids (1: yes)", same, at_least=1, origin=Origin.counted))
    return tokens


def measure_memory(name: str, encode: Encode, texts: Sequence[str], num_bytes: float) -> None:
    """Encodes the documents again and again, with other letters in every second pass; prints what the process holds."""
    rng, done, shown = random.Random(0), 0, 0.0
    for number in itertools.count():
        letters = "".join(rng.sample(LETTERS, len(LETTERS))) if number % 2 else LETTERS
        table = str.maketrans(LETTERS + LETTERS.upper(), letters + letters.upper())
        for batch in batches([text.translate(table) for text in texts]):
            encode(batch)
            done += sum(map(len, batch))
        if done >= shown:
            print(f"{name}: {done / 1e9:.2f} GB, {psutil.Process().memory_info().rss >> 20} MiB", flush=True)
            shown += num_bytes / 10
        if done >= num_bytes:
            return


def main() -> None:
    """Measures every encoder in turn."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.encoders", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--tokenizer", type=Path, help="tokenizer.json (default: one trained on the sample)")
    parser.add_argument("--eos-token", default=EOS_TOKEN)
    parser.add_argument("--mix", type=Path, help="folder of `python -m data sample` (default: one is built)")
    parser.add_argument("--gigabytes", type=float, default=0.0, help="of text for the memory (default: not measured)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.mix or Path(temporary) / "mix"
        build_sample(folder, report=lambda message: None)
        tokenizer = (arguments.tokenizer or folder / "tokenizer.json").resolve()
        files = itertools.chain.from_iterable(find_sources(folder).values())
        texts = [record.text for file in files for record in read_records(file, RecordCounts())]
        found = encoders(tokenizer, arguments.eos_token)
        expected: list[np.ndarray] = []
        for name, encode in found.items():
            tokens = measure_speed(name, encode, texts, expected)
            expected = expected or tokens
        for name, encode in found.items():
            if arguments.gigabytes and not name.startswith("tokenizers"):
                measure_memory(name, encode, texts, arguments.gigabytes * 1e9)


if __name__ == "__main__":
    main()
