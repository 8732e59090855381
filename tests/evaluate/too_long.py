"""A length at which a task turns out too long late."""

from pathlib import Path

from tokenizers import Tokenizer

from evaluate.config import ProbeConfig
from evaluate.errors import EvaluateError
from evaluate.samples import Samples
from evaluate.tasks import build_tasks


def length_too_short_from(index: int, folder: Path, config: ProbeConfig) -> int:
    """Returns a length at which this sample of niah_single_3 is the first too long one: UUIDs differ in tokens."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    task = build_tasks(config)["niah_single_3"]
    for length in range(440, 600):
        samples = Samples("niah_single_3", task, length, config, lambda text: tokenizer.encode(text).ids)
        try:
            for each in range(3):
                _ = samples[each]
        except EvaluateError:
            if each == index:
                return length
    raise AssertionError("no such length")
