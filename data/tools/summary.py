"""What each source holds: documents and tokens of text, by reading all of it; files and tokens of a file list.

A list of token files can be summarised before any of them is fetched: a CSV of the same name beside it
(`prefix,tokens`) says how many tokens each folder has.
"""

import csv
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.errors import DataError
from data.fetch.files import DataFile, describe_file, read_manifest
from data.text.form import PLAIN, TextForm, form_of, with_form
from data.text.frames import RecordCounts
from data.text.holdout import is_held_out
from data.text.names import find_text_names
from data.text.records import read_first_records, read_records
from data.tokenizer import DocumentEncoder
from data.tokens.files import TOKEN_DTYPE, TokenRows, check_token_ids, name_sources
from data.tokens.published import published_order

DOCUMENTS_AT_ONCE = 1000


@dataclass
class SourceSummary:
    """Counts of one source of text."""

    name: str
    """The folder of the source."""
    num_files: int
    """Its files."""
    counts: RecordCounts
    """Its records."""
    num_file_bytes: int
    """The files' size on disk."""
    num_tokens: int = 0
    """Tokens, an EOS per document included."""
    held_out_documents: int = 0
    """Documents that are held out for validation."""
    held_out_tokens: int = 0
    """Their tokens."""

    @property
    def training_tokens(self) -> int:
        """Tokens of an epoch: those of documents that are not held out."""
        return self.num_tokens - self.held_out_tokens


@dataclass
class TokenSummary:
    """Counts of one source of token files."""

    name: str
    """The folder of the source."""
    num_files: int = 0
    """Its files."""
    num_tokens: int = 0
    """Tokens in them."""

    @property
    def num_bytes(self) -> int:
        """The files' size."""
        return self.num_tokens * TOKEN_DTYPE.itemsize


def find_sources(root: Path, form: TextForm = PLAIN) -> dict[str, list[DataFile]]:
    """Returns the text files of each source: of each folder of `root`, or of the folder that all files are below.

    Files that lie in `root` itself are a source of its name, if there are no others. Raises DataError for no files.
    """
    manifest = read_manifest(root)
    found = find_text_names(root)
    names = [name for name in found if "/" in name]
    if found and not names:
        return {root.resolve().name: [with_form(describe_file(root, name, manifest.get(name)), form) for name in found]}
    sources: dict[str, list[DataFile]] = {}
    for source, name in zip(name_sources(names), names, strict=True):
        sources.setdefault(source, []).append(with_form(describe_file(root, name, manifest.get(name)), form))
    if not sources:
        raise DataError(f"{root} holds no files of text or tokens; give a folder that does, or a data config")
    return sources


def summarise(
    sources: dict[str, list[DataFile]], encoder: DocumentEncoder, held_out_share: float = 0.0
) -> Iterator[SourceSummary]:
    """Yields one summary per source; raises DataError for a truncated file."""
    for name, files in sources.items():
        summary = SourceSummary(name, len(files), RecordCounts(), sum(file.num_bytes for file in files))
        records = itertools.chain.from_iterable(read_records(file, summary.counts) for file in files)
        cut = form_of(files[0]).cut
        while batch := [record.text for record in itertools.islice(records, DOCUMENTS_AT_ONCE)]:
            summary.counts.documents += len(batch)
            summary.counts.text_bytes += sum(len(text.encode()) for text in batch)
            tokens, ends = encoder.encode_documents(batch, cut)
            summary.num_tokens += len(tokens)
            held_out = np.array([is_held_out(text, held_out_share) for text in batch], bool)
            summary.held_out_documents += int(held_out.sum())
            summary.held_out_tokens += int(np.diff(ends, prepend=0)[held_out].sum())
        yield summary


def summarise_tokens(names: Sequence[str], num_tokens: Sequence[int]) -> list[TokenSummary]:
    """Returns one summary per source of the listed files, largest first."""
    summaries: dict[str, TokenSummary] = {}
    for source, tokens in zip(name_sources(list(names)), num_tokens, strict=True):
        summary = summaries.setdefault(source, TokenSummary(source))
        summary.num_files += 1
        summary.num_tokens += tokens
    return sorted(summaries.values(), key=lambda summary: -summary.num_tokens)


def published_tokens(names: Sequence[str], file_list: Path) -> list[int]:
    """Returns the tokens of the listed files, spread evenly over the files of each published prefix.

    Raises DataError without the CSV beside the list, and for a file that no prefix covers.
    """
    path = file_list.with_suffix(".csv")
    if not path.is_file():
        raise DataError(f"there is no {path} to say what the files hold; give the folder or address they are at")
    with path.open(newline="") as file:
        tokens_by_prefix = {row["prefix"]: int(row["tokens"]) for row in csv.DictReader(file)}
    prefixes = [next((prefix for prefix in tokens_by_prefix if name.startswith(prefix)), None) for name in names]
    if None in prefixes:
        raise DataError(f"{path} has no prefix of {names[prefixes.index(None)]}; add it")
    even = [tokens_by_prefix[str(prefix)] // prefixes.count(prefix) for prefix in prefixes]
    for prefix in set(prefixes):  # the first file takes the remainder, so that sums are exact
        even[prefixes.index(prefix)] += tokens_by_prefix[str(prefix)] % prefixes.count(prefix)
    return even


def text_rows(files: Sequence[DataFile], encoder: DocumentEncoder, length: int, num_rows: int) -> Iterator[str]:
    """Yields the first rows of `length` tokens of these files, decoded; raises DataError."""
    records = itertools.chain.from_iterable(read_first_records(file, RecordCounts()) for file in files)
    tokens = np.empty(0, np.uint32)
    for _ in range(num_rows):
        while len(tokens) < length and (record := next(records, None)):
            tokens = np.concatenate([tokens, encoder.encode([record.text], form_of(files[0]).cut)])
        if not len(tokens):
            return
        yield encoder.decode(tokens[:length])
        tokens = tokens[length:]


def token_rows(rows: TokenRows, encoder: DocumentEncoder, seed: int, num_rows: int) -> Iterator[str]:
    """Yields the first rows of the published order, decoded; raises DataError, for ids that the tokenizer lacks too."""
    numbers = published_order(len(rows), seed, 0)[:num_rows]
    for row, file in zip(rows.read(numbers), rows.locate(numbers), strict=True):
        check_token_ids(row, rows.files[file], encoder.max_token_id)
        yield encoder.decode(row)
