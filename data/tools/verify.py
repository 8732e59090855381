"""Checks of the files of a folder or a data config: size, hash, decoding to the end, range of token ids."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data.config import DataConfig, DataKind, TokenDtype
from data.errors import DataError
from data.fetch.download import NUM_CONNECTIONS, hash_file, is_present
from data.fetch.files import DataFile, describe_file, read_manifest
from data.fetch.record import read_record
from data.fetch.roots import Root, locate_tokenizer, open_root
from data.text.backend import training_files
from data.text.form import PLAIN, TextForm, find_text_files, form_of, with_form
from data.text.frames import RecordCounts
from data.text.names import OTHER_JSON, TEXT_NAME, find_text_names
from data.text.records import read_records
from data.tokenizer import largest_id
from data.tokens.files import MAX_TOKEN_ID, check_token_ids, read_file_list
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


def verify(
    folder: Path,
    max_token_id: int = MAX_TOKEN_ID,
    form: TextForm = PLAIN,
    token_dtype: TokenDtype = TokenDtype.uint32,
) -> Iterator[Verdict]:
    """Yields one verdict per data file below `folder`, listed or found; raises DataError where there is none."""
    manifest = read_manifest(folder)
    tokens = (path.relative_to(folder).as_posix() for path in folder.rglob("*.npy"))
    unfinished = (path.relative_to(folder).as_posix() for end in UNFINISHED for path in folder.rglob(f"*{end}"))
    texts = find_text_names(folder)
    names = {*texts, *tokens, *manifest, *unfinished}
    if not names:
        raise DataError(f"{folder} holds no data files; give a folder that was fetched or built")
    are_text = {*texts, *filter(_is_text, names)}

    def judge(name: str) -> Verdict:
        for end, holds in UNFINISHED.items():
            if name.endswith(end):
                return Verdict(name, 0, f"{folder / name} {holds}; fetch it to its end")
        try:
            file = describe_file(folder, name, _listed(folder / name, manifest.get(name)))
        except FileNotFoundError:
            return Verdict(name, 0, f"{folder / name} is missing; fetch or build it again")
        except DataError as error:
            return Verdict(name, 0, str(error))
        return _judge(with_form(file, form), max_token_id, token_dtype, is_text=name in are_text)

    with ThreadPoolExecutor(NUM_CONNECTIONS) as pool:
        yield from pool.map(judge, sorted(names))


def verify_config(config: DataConfig) -> Iterator[Verdict]:
    """Yields one verdict per file that a data config names, in the form that it says; raises DataError."""
    root = open_root(config.root, config.cache_dir)
    limit = largest_id(locate_tokenizer(config.tokenizer, root)) if config.tokenizer else MAX_TOKEN_ID
    if config.kind is DataKind.text:
        found = training_files(config, root)
        for name, source in config.validation.sources.items():
            key = f"validation.sources.{name}"
            found[key] = find_text_files(config, source, f"data.{key}", root)
        files = [(file, TokenDtype.uint32) for own in found.values() for file in own]
    else:
        files = _token_files(config, root)

    def judge(item: tuple[DataFile, TokenDtype]) -> Verdict:
        file, token_dtype = item
        if not is_present(file):
            return Verdict(file.name, 0, f"{file.path} is not here; fetch it with `python -m data fetch`")
        return _judge(file, limit, token_dtype, is_text=config.kind is DataKind.text)

    with ThreadPoolExecutor(NUM_CONNECTIONS) as pool:
        yield from pool.map(judge, files)


def _token_files(config: DataConfig, root: Root) -> list[tuple[DataFile, TokenDtype]]:
    """Returns the token files of a config, with how those without a header store ids; none is looked at."""
    lists = [
        (config.file_list, "data.file_list", config.token_dtype),
        (config.validation.file_list, "data.validation.file_list", config.token_dtype),
    ]
    files = []
    for name, source in config.sources.items() if config.file_list is None else ():
        if source.weight > 0.0:
            lists.append((source.file_list, f"data.sources.{name}.file_list", source.token_dtype))
            found = root.find(source.files, f"data.sources.{name}.files") if source.files else []
            files += [(file, source.token_dtype) for file in found]
    for listed, key, token_dtype in lists:
        if listed is not None:
            names = read_file_list(Path(listed).expanduser(), key)
            files += [(file, token_dtype) for file in root.named(names, key)]
    return files


def _is_text(name: str) -> bool:
    return TEXT_NAME.search(name) is not None and Path(name).name not in OTHER_JSON


def _listed(path: Path, listed: dict[str, Any] | None) -> dict[str, Any] | None:
    """Returns what is known of a file: what the manifest lists, or what was noted when it was fetched."""
    record = read_record(path)
    if listed is None and record is not None and record.sha256:
        return {"bytes": path.stat().st_size, "sha256": record.sha256}
    return listed


def _judge(file: DataFile, max_token_id: int, token_dtype: TokenDtype, *, is_text: bool) -> Verdict:
    try:
        if file.name.endswith(".npy"):
            _check_tokens(file, max_token_id, token_dtype)
        elif is_text:
            _check_text(file)
        else:
            _check_hash(file)
    except DataError as error:
        return Verdict(file.name, 0, str(error))
    return Verdict(file.name, file.num_bytes, None)


def _check_hash(file: DataFile) -> None:
    if file.sha256 is not None and hash_file(file.path) != file.sha256:
        raise DataError(f"{file.path} does not have its listed sha256; fetch or build the file again")


def _check_tokens(file: DataFile, max_token_id: int, token_dtype: TokenDtype) -> None:
    layout = layout_of(file, token_dtype)
    _check_hash(file)
    with file.path.open("rb") as content:
        content.seek(layout.start)
        while len(tokens := np.fromfile(content, layout.dtype, TOKENS_AT_ONCE)):
            check_token_ids(tokens, file, max_token_id)


def _check_text(file: DataFile) -> None:
    counts = RecordCounts()
    counts.documents = sum(1 for _ in read_records(file, counts))  # reading to the end is the check, hash included
    if counts.num_bad:
        raise DataError(f"{file.path}: {counts.describe_bad()} are unreadable; {counts.remedy(form_of(file).key)}")
