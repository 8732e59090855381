"""Checks of the files of a folder: size, hash, decoding to the end, range of token ids."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data.errors import DataError
from data.fetch.download import NUM_CONNECTIONS, hash_file
from data.fetch.files import DataFile, describe_file, read_manifest
from data.fetch.record import read_record
from data.text.frames import RecordCounts
from data.text.names import OTHER_JSON, TEXT_NAME, find_text_names
from data.text.records import read_records
from data.tokens.files import MAX_TOKEN_ID, check_token_ids
from data.tokens.layout import layout_of

TOKENS_AT_ONCE = 1 << 24
UNFINISHED = {".part": "is the beginning of a file", ".rows": "holds some rows of a file"}  # by end of the name


@dataclass(frozen=True)
class Verdict:
    """The result for one file."""

    name: str
    """Its path below the folder."""
    num_bytes: int
    """Its size."""
    fault: str | None
    """What is wrong with it; None: nothing."""


def verify(folder: Path, max_token_id: int = MAX_TOKEN_ID) -> Iterator[Verdict]:
    """Yields one verdict per data file below `folder`, listed or found; raises DataError where there is none."""
    manifest = read_manifest(folder)
    tokens = (path.relative_to(folder).as_posix() for path in folder.rglob("*.npy"))
    unfinished = (path.relative_to(folder).as_posix() for end in UNFINISHED for path in folder.rglob(f"*{end}"))
    names = {*find_text_names(folder), *tokens, *manifest, *unfinished}
    if not names:
        raise DataError(f"{folder} holds no data files; give a folder that was fetched or built")
    with ThreadPoolExecutor(NUM_CONNECTIONS) as pool:
        yield from pool.map(lambda name: _judge(folder, name, manifest.get(name), max_token_id), sorted(names))


def _judge(folder: Path, name: str, listed: dict[str, Any] | None, max_token_id: int) -> Verdict:
    for end, holds in UNFINISHED.items():
        if name.endswith(end):
            return Verdict(name, 0, f"{folder / name} {holds}; fetch it to its end")
    record = read_record(folder / name)
    try:
        if listed is None and record is not None and record.sha256:
            listed = {"bytes": (folder / name).stat().st_size, "sha256": record.sha256}
        file = describe_file(folder, name, listed)
        if name.endswith(".npy"):
            _check_tokens(file, max_token_id)
        elif TEXT_NAME.search(name) and file.path.name not in OTHER_JSON:
            _check_text(file)
        else:
            _check_hash(file)
    except FileNotFoundError:
        return Verdict(name, 0, f"{folder / name} is missing; fetch or build it again")
    except DataError as error:
        return Verdict(name, 0, str(error))
    return Verdict(name, file.num_bytes, None)


def _check_hash(file: DataFile) -> None:
    if file.sha256 is not None and hash_file(file.path) != file.sha256:
        raise DataError(f"{file.path} does not have its listed sha256; fetch or build the file again")


def _check_tokens(file: DataFile, max_token_id: int) -> None:
    layout = layout_of(file)
    _check_hash(file)
    with file.path.open("rb") as content:
        content.seek(layout.start)
        while len(tokens := np.fromfile(content, layout.dtype, TOKENS_AT_ONCE)):
            check_token_ids(tokens, file, max_token_id)


def _check_text(file: DataFile) -> None:
    counts = RecordCounts()
    counts.documents = sum(1 for _ in read_records(file, counts))  # reading to the end is the check, hash included
    if counts.num_bad:
        raise DataError(f"{file.path}: {counts.describe_bad()} are unreadable; the rest is readable")
