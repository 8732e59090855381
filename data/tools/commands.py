"""What the verbs of `python -m data` do, between their parsed options and the modules that do the work."""

import argparse
import contextlib
import os
from pathlib import Path
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

from data.config import EncoderKind
from data.errors import DataError
from data.fetch.files import DataFile, open_folder
from data.fetch.mirror import mirror
from data.fetch.roots import Root, forget_listing, open_root
from data.tokenizer import TOKENIZER_NAME, DocumentEncoder, largest_id
from data.tokens.files import MAX_TOKEN_ID, list_token_files
from data.tools.convert import convert, plan
from data.tools.inspect import load_data_config
from data.tools.options import dtype_option, form_option, is_config, naming_options
from data.tools.sample import build_sample
from data.tools.verify import verify, verify_config


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
    new = [folder for folder in (options.to, *options.to.parents) if not folder.exists()]
    try:
        root = open_root(options.root, str(options.to))
        if root.remote is None:
            raise DataError(f"{options.root} is on this machine already; give an address: https, hf, s3 or gs")
        files = _chosen(root, options)
    except (DataError, KeyboardInterrupt):  # nothing was fetched: nothing is left, either
        if options.to in new:
            forget_listing(options.to)
        for folder in new:
            with contextlib.suppress(OSError):
                folder.rmdir()
        raise
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


def verify_data(options: argparse.Namespace) -> None:
    """Checks the files of a folder or a data config; raises DataError when some are faulty."""
    num_files, faults = 0, []
    if is_config(options):
        if options.tokenizer:
            raise DataError("--tokenizer is for a folder; a data config names its own")
        verdicts = verify_config(load_data_config(Path(options.root).expanduser()))
    else:
        folder = open_folder(options.root)
        tokenizer = options.tokenizer or folder / TOKENIZER_NAME
        limit = largest_id(tokenizer) if options.tokenizer or tokenizer.is_file() else MAX_TOKEN_ID
        verdicts = verify(folder, limit, form_option(options), dtype_option(options))
    with Console(stderr=True).status("verifying") as status:
        for verdict in verdicts:
            num_files += 1
            status.update(f"verifying; {num_files:,} files done, {verdict.name} was the last")
            if verdict.fault:
                faults.append(verdict.fault)
    for fault in faults:
        print(fault if is_config(options) else naming_options(fault))
    if faults:
        of = "of" if is_config(options) else "below"
        raise DataError(
            f"{len(faults)} of {num_files} files {of} {options.root} are faulty; put right what is listed above"
        )
    print(f"{options.root}: {num_files:,} files are in order")


def tokenize(options: argparse.Namespace) -> None:
    """Converts text to token files."""
    root = open_folder(str(options.source))
    tokenizer = options.tokenizer or root / TOKENIZER_NAME
    encoder = DocumentEncoder(tokenizer, options.eos_token, EncoderKind(options.encoder))
    conversions = plan(root, options.target, encoder, options.max_bad_share, form_option(options))
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


def _chosen(root: Root, options: argparse.Namespace) -> list[DataFile]:
    if options.file_list:
        return list_token_files(root, options.file_list)
    return root.find(options.files, "--files")
