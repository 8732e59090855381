"""What the verbs of `python -m data` do, between their parsed options and the modules that do the work."""

import argparse
import os
from collections.abc import Iterable
from shlex import quote

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Column, Table

from data.config import EncoderKind
from data.errors import DataError
from data.fetch.files import DataFile, open_folder
from data.fetch.mirror import mirror
from data.fetch.roots import Root, open_root
from data.tokenizer import TOKENIZER_NAME, DocumentEncoder
from data.tokens.files import MAX_TOKEN_ID, TokenRows, list_token_files, read_file_list
from data.tools.convert import convert, plan
from data.tools.sample import build_sample
from data.tools.summary import (
    find_sources,
    published_tokens,
    summarise,
    summarise_tokens,
    text_rows,
    token_rows,
)
from data.tools.verify import verify

TEXT_COLUMNS = ("files", "file bytes", "documents", "bad", "text bytes", "tokens", "share")
TOKEN_COLUMNS = ("files", "tokens", "bytes", "share")


def sample(options: argparse.Namespace) -> None:
    """Builds the miniature mix."""
    with Console(stderr=True).status("looking for the sample") as status:
        built = build_sample(
            options.folder,
            seed=options.seed,
            vocab_size=options.vocab_size,
            megabytes=options.megabytes,
            report=status.update,
        )
    print(f"{options.folder}: {'built' if built else 'complete already'}")


def fetch(options: argparse.Namespace) -> None:
    """Copies files of a remote root to a folder."""
    root = open_root(options.root, str(options.to))
    if root.remote is None:
        raise DataError(f"{options.root} is on this machine already; give an address: https, hf, s3 or gs")
    files = _chosen(root, options)
    num_bytes = sum(file.num_bytes for file in files)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(f"{len(files)} files", total=num_bytes)
        mirror(root, files, lambda arrived: progress.advance(task, arrived))
    print(f"{options.to}: {len(files):,} files, {num_bytes:,} bytes")


def verify_folder(options: argparse.Namespace) -> None:
    """Checks the files of a folder; raises DataError when some are faulty."""
    folder = open_folder(str(options.folder))
    tokenizer = options.tokenizer or folder / TOKENIZER_NAME
    known = options.tokenizer or tokenizer.is_file()
    limit = DocumentEncoder(tokenizer, options.eos_token).max_token_id if known else MAX_TOKEN_ID
    num_files, faults = 0, []
    with Console(stderr=True).status("verifying") as status:
        for verdict in verify(folder, limit):
            num_files += 1
            status.update(f"verifying; {num_files:,} files done, {verdict.name} was the last")
            if verdict.fault:
                faults.append(verdict.fault)
    for fault in faults:
        print(fault)
    if faults:
        raise DataError(f"{len(faults)} of {num_files} files below {folder} are faulty; put right what is listed above")
    print(f"{folder}: {num_files:,} files are in order")


def tokenize(options: argparse.Namespace) -> None:
    """Converts text to token files."""
    root = open_folder(str(options.source))
    tokenizer = options.tokenizer or root / TOKENIZER_NAME
    encoder = DocumentEncoder(tokenizer, options.eos_token, EncoderKind(options.encoder))
    conversions = plan(root, options.target, encoder, options.max_bad_share)
    # One process per file is the parallelism; the tokenizer's own threads would only compete with it.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("files", total=len(conversions))
        for done in convert(conversions, options.target, tokenizer, options.processes):
            progress.update(task, advance=1, description=done.source.name)
    eos_token = f'data.eos_token="{options.eos_token}"'  # quoted for Hydra, and then for the shell
    print(f"{options.target}: {len(conversions):,} token files, encoded by {encoder.encoder}; train on them with")
    print(
        f"  data.kind=tokens data.root={options.target} data.file_list={options.target}/files.txt "
        f"data.tokenizer={TOKENIZER_NAME} {quote(eos_token)} data.eos_token_id=null"
    )


def inspect(options: argparse.Namespace) -> None:
    """Prints what each source holds, and the first rows."""
    if options.file_list:
        _inspect_tokens(options)
    elif options.root:
        _inspect_text(options)
    else:
        raise DataError("inspect needs a folder of text, or --file-list for token files; see --help")


def _inspect_text(options: argparse.Namespace) -> None:
    folder = open_folder(options.root)
    encoder = DocumentEncoder(options.tokenizer or folder / TOKENIZER_NAME, options.eos_token, EncoderKind.auto)
    sources = find_sources(folder)
    summaries = []
    with Console(stderr=True).status("reading") as status:
        for summary in summarise(sources, encoder):
            summaries.append(summary)
            status.update(f"reading; {summary.name} is done")
    total = sum(summary.num_tokens for summary in summaries)
    table = Table("source", *(Column(title, justify="right") for title in TEXT_COLUMNS))
    for item in summaries:
        counts = item.counts
        numbers = (item.num_files, item.num_file_bytes, counts.documents, counts.num_bad, counts.text_bytes)
        table.add_row(item.name, *_with_share((*numbers, item.num_tokens), item.num_tokens, total))
    Console().print(table)
    for name, files in sources.items():
        _print_rows(name, text_rows(files, encoder, options.sequence_length, options.rows))


def _inspect_tokens(options: argparse.Namespace) -> None:
    names = read_file_list(options.file_list)
    files = list_token_files(open_root(options.root), options.file_list) if options.root else []
    num_tokens = [file.num_bytes // 4 for file in files] or published_tokens(names, options.file_list)
    total, length = sum(num_tokens), options.sequence_length
    num_rows = sum(tokens // length for tokens in num_tokens)
    table = Table("source", *(Column(title, justify="right") for title in TOKEN_COLUMNS))
    for item in summarise_tokens(names, num_tokens):
        table.add_row(
            item.name, *_with_share((item.num_files, item.num_tokens, item.num_bytes), item.num_tokens, total)
        )
    Console().print(table)
    origin = "at their place" if files else "as published"
    print(f"{len(names):,} files, {total / 1e9:.2f}B tokens, {total * 4 / 1e9:.1f} GB on disk, {origin}")
    print(f"{num_rows // options.batch_size:,} steps of {options.batch_size:,} rows of {length:,} tokens in an epoch")
    if options.rows:
        if not (files and options.tokenizer):
            raise DataError("--rows of token files needs their folder and --tokenizer; add both")
        encoder = DocumentEncoder(options.tokenizer, options.eos_token)
        _print_rows("published order", token_rows(TokenRows(files, length), encoder, options.seed, options.rows))


def _chosen(root: Root, options: argparse.Namespace) -> list[DataFile]:
    if options.file_list:
        return list_token_files(root, options.file_list)
    return root.find(options.files, "--files")


def _with_share(numbers: Iterable[int], tokens: int, total: int) -> list[str]:
    return [*(f"{number:,}" for number in numbers), f"{tokens / max(1, total):.2%}"]


def _print_rows(name: str, rows: Iterable[str]) -> None:
    for number, row in enumerate(rows):
        print(f"\n--- {name}, row {number}\n{row}")
