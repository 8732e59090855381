"""`python -m data inspect`: what each source holds, of a folder, a list of token files, or a data config."""

import argparse
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from itertools import chain
from pathlib import Path

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console
from rich.table import Column, Table
from yaml import YAMLError

from data.config import DataConfig, DataKind, EncoderKind, Fetch
from data.errors import DataError
from data.fetch.download import is_present
from data.fetch.files import DataFile, open_folder
from data.fetch.roots import locate_tokenizer, open_root
from data.mix import SourceMix, describe_mix, too_many_epochs
from data.text.backend import training_files
from data.text.form import form_of
from data.text.names import find_text_names
from data.text.order import all_held_out_error, no_documents_error
from data.text.records import is_table
from data.tokenizer import TOKENIZER_NAME, DocumentEncoder
from data.tokens.backend import open_ranges
from data.tokens.files import TokenRows, list_token_files, name_sources, read_file_list
from data.tokens.layout import layout_of
from data.tokens.mixed import token_sources
from data.tools.options import dtype_option, form_option, is_config, naming_options
from data.tools.summary import (
    SourceSummary,
    find_sources,
    published_tokens,
    summarise,
    summarise_tokens,
    text_rows,
    token_rows,
)

TEXT_COLUMNS = ("files", "file bytes", "documents", "bad", "text bytes", "tokens", "share")
REMOTE_COLUMNS = ("files", "file bytes", "weight")
TOKEN_COLUMNS = ("files", "tokens", "bytes", "share")
LISTS = "files.txt"
WIDE = 200  # columns where no terminal says how many it has


def inspect(options: argparse.Namespace) -> None:
    """Prints what each source holds, and the first rows."""
    if is_config(options):
        _inspect_config(options)
    elif options.file_list:
        _inspect_list(options, read_file_list(options.file_list))
    elif options.root and (names := _token_names(Path(options.root).expanduser())):
        _inspect_list(options, names)
    elif options.root:
        folder = open_folder(options.root)
        encoder = DocumentEncoder(options.tokenizer or folder / TOKENIZER_NAME, options.eos_token, EncoderKind.auto)
        _print_text(options, find_sources(folder, form_option(options)), encoder)
    else:
        raise DataError("inspect needs a folder, a data config (.yaml), or --file-list for token files; see --help")


def load_data_config(path: Path) -> DataConfig:
    """Returns the config of a file like those of configs/data/, or the data of a run's config.yaml.

    Raises DataError, naming the file and the key, for anything wrong with it.
    """
    try:
        loaded = OmegaConf.load(path)
        values = loaded.data if isinstance(loaded, DictConfig) and "data" in loaded else loaded
        config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(DataConfig), values))
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}; give the folder or the YAML of the data") from error
    except (YAMLError, OmegaConfBaseException) as error:
        lines = [line.strip() for line in str(error).strip().splitlines()]
        keys = [line.removeprefix("full_key: ") for line in lines if line.startswith("full_key: ")]
        raise DataError(f"{path}: {': '.join([*keys[:1], lines[0]])}; correct it") from error
    assert isinstance(config, DataConfig)
    config.validate()
    return config


def _inspect_config(options: argparse.Namespace) -> None:
    config = load_data_config(Path(options.root).expanduser())
    root = open_root(config.root, config.cache_dir)
    tokenizer = locate_tokenizer(config.tokenizer, root) if config.tokenizer else None
    kind = config.encoder if config.kind is DataKind.text else EncoderKind.tokenizers
    encoder = DocumentEncoder(tokenizer, config.eos_token, kind) if tokenizer else None
    if config.kind is DataKind.text:
        assert encoder is not None, "DataConfig.validate asks for a tokenizer"
        sources = training_files(config, root)
        if not all(is_present(file) for file in chain.from_iterable(sources.values())):
            _print_remote(options, config, sources, encoder)
            return
        summaries = _print_text(options, sources, encoder, config.validation.share)
        for item in summaries:
            if not item.counts.documents:
                raise no_documents_error(item.name)
            if not item.training_tokens:
                raise all_held_out_error(item.name, config.validation.share)
        num_tokens = {item.name: item.training_tokens for item in summaries}
        weights: Mapping[str, float] = {name: config.sources[name].weight for name in sources}
    else:
        if options.rows and encoder is None:
            raise DataError("--rows of token files needs their tokenizer; set data.tokenizer")
        with ExitStack() as opened:
            rows = _rows_by_source(config, options.sequence_length, opened)
            num_tokens = _print_tokens(options, rows, encoder)
        weights = {
            name: config.sources[name].weight if config.file_list is None else n for name, n in num_tokens.items()
        }
    if options.steps:
        _print_plan(options, config, num_tokens, weights)


def _print_remote(
    options: argparse.Namespace, config: DataConfig, sources: dict[str, list[DataFile]], encoder: DocumentEncoder
) -> None:
    """Prints what is listed of files that are not here, and their first rows; counting needs all of them."""
    table = _table(REMOTE_COLUMNS)
    total = sum(config.sources[name].weight for name in sources)
    for name, files in sources.items():
        share = f"{config.sources[name].weight / total:.2%}"
        table.add_row(name, f"{len(files):,}", f"{sum(file.num_bytes for file in files):,}", share)
    _print_table(table)
    print("documents and tokens can be counted when the files are here: `python -m data fetch`, and data.root=FOLDER")
    for name, files in sources.items():
        if not is_table(files[0]):
            _print_rows(name, text_rows(files, encoder, options.sequence_length, options.rows))


def _rows_by_source(config: DataConfig, length: int, opened: ExitStack) -> dict[str, TokenRows]:
    """Returns the rows of each source, which are closed with `opened`. Raises DataError."""
    root = open_root(config.root, config.cache_dir)
    if config.file_list is None:
        dtypes = {name: source.token_dtype for name, source in config.sources.items()}
        found = token_sources(config, root)
    else:
        listed = list_token_files(root, Path(config.file_list).expanduser(), token_dtype=config.token_dtype)
        found = _by_source(listed)
        dtypes = dict.fromkeys(found, config.token_dtype)
    by_row = config.fetch is Fetch.rows
    rows = {}
    for name, files in found.items():
        ranges = open_ranges(root, files) if by_row else None
        rows[name] = TokenRows(files, length, [dtypes[name]] * len(files), ranges)
        opened.callback(rows[name].close)
    return rows


def _inspect_list(options: argparse.Namespace, names: list[str]) -> None:
    if not options.root:
        _print_published(options, names)
        return
    root, dtype = open_root(options.root), dtype_option(options)
    files = root.named(names, "--file-list" if options.file_list else "ROOT")
    tokenizer = options.tokenizer or (root.folder / TOKENIZER_NAME if not root.remote else None)
    encoder = DocumentEncoder(tokenizer, options.eos_token) if tokenizer and tokenizer.is_file() else None
    try:
        raw = sum(not layout_of(file, dtype).start for file in files)
    except DataError as error:
        raise DataError(naming_options(str(error))) from error
    by_source = _by_source(files).items()
    rows = {name: TokenRows(own, options.sequence_length, [dtype] * len(own)) for name, own in by_source}
    num_tokens = _print_tokens(options, rows, None)
    if raw:
        print(f"{raw:,} files without a header are taken for {dtype.value}; --token-dtype says otherwise")
    total, num_bytes = sum(num_tokens.values()), sum(file.num_bytes for file in files)
    print(f"{len(files):,} files, {total / 1e9:.2f}B tokens, {num_bytes / 1e9:.1f} GB on disk, at their place")
    _print_steps(options, sum(len(own) for own in rows.values()))
    if options.rows:
        if encoder is None:
            raise DataError("--rows of token files needs their folder and --tokenizer; add both")
        all_rows = TokenRows(files, options.sequence_length, [dtype] * len(files), open_ranges(root, files))
        try:
            _print_rows("published order", token_rows(all_rows, encoder, options.seed, options.rows))
        except DataError as error:
            raise DataError(naming_options(str(error))) from error
        finally:
            all_rows.close()


def _print_published(options: argparse.Namespace, names: list[str]) -> None:
    """Prints what the CSV beside a list says of files that are not here."""
    if options.rows:
        raise DataError("--rows of token files needs their folder and --tokenizer; add both")
    num_tokens = published_tokens(names, options.file_list)
    total = sum(num_tokens)
    table = _table(TOKEN_COLUMNS)
    for item in summarise_tokens(names, num_tokens):
        table.add_row(
            item.name, *_with_share((item.num_files, item.num_tokens, item.num_bytes), item.num_tokens, total)
        )
    _print_table(table)
    print(f"{len(names):,} files, {total / 1e9:.2f}B tokens, {total * 4 / 1e9:.1f} GB on disk, as published")
    _print_steps(options, sum(tokens // options.sequence_length for tokens in num_tokens))


def _print_text(
    options: argparse.Namespace,
    sources: dict[str, list[DataFile]],
    encoder: DocumentEncoder,
    held_out_share: float = 0.0,
) -> list[SourceSummary]:
    """Prints a table of sources of text, and their first rows; returns what was counted. Raises DataError."""
    summaries = []
    with Console(stderr=True).status("reading") as status:
        for summary in summarise(sources, encoder, held_out_share):
            summaries.append(summary)
            status.update(f"reading; {summary.name} is done")
    total = sum(summary.num_tokens for summary in summaries)
    table = _table(TEXT_COLUMNS)
    for item in summaries:
        counts = item.counts
        numbers = (item.num_files, item.num_file_bytes, counts.documents, counts.num_bad, counts.text_bytes)
        table.add_row(item.name, *_with_share((*numbers, item.num_tokens), item.num_tokens, total))
    _print_table(table)
    for item in summaries:
        if item.counts.num_bad:
            key = form_of(sources[item.name][0]).key
            print(f"{item.name}: {item.counts.describe_bad()} are unreadable; {item.counts.remedy(key)}")
    if held_out_share:
        documents = sum(item.held_out_documents for item in summaries)
        tokens = sum(item.held_out_tokens for item in summaries)
        print(f"data.validation.share={held_out_share:g} holds out {documents:,} documents, {tokens:,} tokens of these")
    for name, files in sources.items():
        _print_rows(name, text_rows(files, encoder, options.sequence_length, options.rows))
    return summaries


def _print_tokens(
    options: argparse.Namespace, sources: dict[str, TokenRows], encoder: DocumentEncoder | None
) -> dict[str, int]:
    """Prints a table of sources of token files and, with an encoder, their first rows; returns the tokens of each."""
    num_tokens = {name: sum(rows.num_tokens) for name, rows in sources.items()}
    table, total = _table(TOKEN_COLUMNS), sum(num_tokens.values())
    for name, tokens in sorted(num_tokens.items(), key=lambda item: -item[1]):
        files = sources[name].files
        numbers = (len(files), tokens, sum(file.num_bytes for file in files))
        table.add_row(name, *_with_share(numbers, tokens, total))
    _print_table(table)
    if encoder is not None:
        for name, rows in sources.items():
            _print_rows(name, token_rows(rows, encoder, options.seed, options.rows))
    return num_tokens


def _print_plan(
    options: argparse.Namespace, config: DataConfig, num_tokens: Mapping[str, int], weights: Mapping[str, float]
) -> None:
    """Prints what a run of so many steps takes of each source."""
    total = sum(weights.values())
    mix = [
        SourceMix(
            name,
            weights[name] / total,
            tokens,
            True,
            config.sources[name].max_epochs if name in config.sources else None,
        )
        for name, tokens in num_tokens.items()
    ]
    planned = options.steps * options.batch_size * options.sequence_length
    unused = [name for name in config.sources if name not in num_tokens] if config.file_list is None else []
    for line in describe_mix(mix, planned, unused):
        print(line)
    if problem := too_many_epochs(mix, planned, {name: source.weight for name, source in config.sources.items()}):
        raise DataError(problem)


def _token_names(folder: Path) -> list[str]:
    """Returns the token files of a folder, as its files.txt lists them or by name; none where there is text."""
    if not folder.is_dir() or find_text_names(folder):
        return []
    if (folder / LISTS).is_file() and any(folder.rglob("*.npy")):
        return read_file_list(folder / LISTS)
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.npy"))


def _by_source(files: Sequence[DataFile]) -> dict[str, list[DataFile]]:
    found: dict[str, list[DataFile]] = {}
    for name, file in zip(name_sources([file.name for file in files]), files, strict=True):
        found.setdefault(name, []).append(file)
    return found


def _print_steps(options: argparse.Namespace, num_rows: int) -> None:
    batch, length = options.batch_size, options.sequence_length
    print(f"{num_rows // batch:,} steps of {batch:,} rows of {length:,} tokens in an epoch")


def _table(columns: Sequence[str]) -> Table:
    return Table("source", *(Column(title, justify="right", no_wrap=True) for title in columns))


def _print_table(table: Table) -> None:
    """Prints a table; a file or a pipe gets every digit."""
    Console(width=None if sys.stdout.isatty() else WIDE).print(table)


def _with_share(numbers: Iterable[int], tokens: int, total: int) -> list[str]:
    return [*(f"{number:,}" for number in numbers), f"{tokens / max(1, total):.2%}"]


def _print_rows(name: str, rows: Iterable[str]) -> None:
    for number, row in enumerate(rows):
        print(f"\n--- {name}, row {number}\n{row}")
