"""Files to take validation rows from, whose documents tell which they are."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from data.config import DataConfig, DataKind, ValidationConfig
from data.text.holdout import is_held_out
from data.tokenizer import DocumentEncoder
from data.validation import ValidationRows, build_validation

SHARE = 0.25
LENGTH = 64
NAME = re.compile(r"<(\d+)>")  # documents consist of their own number: every part of one tells which it is


def text_of(number: int) -> str:
    return f"<{number}> " * (1 + number * 7 % 40)


TEXTS = {number: text_of(number) for number in range(10_000, 10_400)}
HELD_OUT = {number for number, text in TEXTS.items() if is_held_out(text, SHARE)}
NUMBERS = {"one": range(10_000, 10_300), "two": range(10_200, 10_400)}  # a hundred documents are in both


def write_texts(path: Path, numbers: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(orjson.dumps({"text": TEXTS[number]}) + b"\n" for number in numbers))


def decoder(config: DataConfig) -> DocumentEncoder:
    return DocumentEncoder(Path(config.root) / "tokenizer.json", config.eos_token)


def numbers_in(config: DataConfig, tokens: np.ndarray) -> set[int]:
    """The documents that rows have parts of; a number that is cut at the end of a row does not count."""
    encoder = decoder(config)
    return {int(number) for row in tokens for number in NAME.findall(encoder.decode(row))}


def built(config: DataConfig) -> ValidationRows:
    rows = build_validation(config, sequence_length=LENGTH)
    assert rows is not None
    return rows


def assert_equal_rows(left: ValidationRows, right: ValidationRows) -> None:
    for name in ("tokens", "loss_mask", "sources"):
        np.testing.assert_array_equal(getattr(left, name), getattr(right, name))
    assert left.source_names == right.source_names
    for one, other in zip(left.boundaries, right.boundaries, strict=True):
        np.testing.assert_array_equal(one, other)


def token_config(folder: Path) -> DataConfig:
    names = []
    for number, source in enumerate(("train/a", "train/b", "valid/x", "valid/x", "valid/y")):
        name = f"mix/{source}/part-{number}.npy"
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (np.arange(LENGTH * (5 + number) + 3, dtype="<u4") + 10_000 * number).tofile(folder / name)
        names.append(name)
    (folder / "files.txt").write_text("\n".join(names[:2]))
    (folder / "validation.txt").write_text("\n".join(names[2:]))
    (folder / "overlap.txt").write_text("\n".join(names[1:]))
    return DataConfig(
        DataKind.tokens,
        root=str(folder),
        file_list=str(folder / "files.txt"),
        eos_token_id=0,
        validation=ValidationConfig(file_list=str(folder / "validation.txt"), rows=9),
    )
