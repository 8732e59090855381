"""Text to token files in the published format: for a mix that is read often, or by other software too.

    DIR/NAME.npy         each document's tokens and EOS: little-endian uint32, no header
    DIR/NAME.csv.gz      start,end,id,src,line of each document; start and end count tokens
    DIR/tokenizer.json   what the text was encoded with
    DIR/files.txt        the .npy paths in order, for data.file_list
    DIR/manifest.json    bytes, sha256, tokens, documents and encoder of each .npy; written last

Each source file becomes one of each, in a process of its own. A .npy exists when it is complete, and `.NAME.source`
says what it was made from: a conversion that was interrupted goes on with the missing files, and repeats those whose
source, tokenizer or end-of-document token has changed.
"""

import csv
import gzip
import io
import itertools
import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import orjson

from common.files import write_text_whole, write_whole
from data.errors import DataError
from data.fetch.download import explained_disk_errors, hash_file
from data.fetch.files import MANIFEST_NAME, DataFile, describe_file, read_manifest
from data.fetch.locks import file_lock
from data.text.form import PLAIN, TextForm, form_of, with_form
from data.text.frames import RecordCounts
from data.text.names import DATA_SUFFIX, find_text_names
from data.text.records import Record, read_records
from data.tokenizer import TOKENIZER_NAME, DocumentEncoder, first_characters
from data.tokens.files import TOKEN_DTYPE

DOCUMENTS_AT_ONCE = 256
csv.field_size_limit(1 << 30)  # an id may be anything
FILES_NAME = "files.txt"


@dataclass(frozen=True)
class Conversion:
    """One source file and where its tokens go."""

    source: DataFile
    """The file to read."""
    target: Path
    """The .npy file to write."""
    encoder: DocumentEncoder
    """What encodes the text."""
    max_bad_share: float
    """Share of bad records above which the file is refused."""

    @property
    def sidecar(self) -> Path:
        """The file that lists the documents."""
        return self.target.with_suffix(".csv.gz")

    @property
    def identity(self) -> str:
        """What the tokens depend on, as a line of text."""
        source, encoder = self.source, self.encoder
        values = (source.name, source.num_bytes, source.version, encoder.sha256, encoder.eos_token_id)
        return "\t".join(map(str, (*values, *form_of(source).identity.values())))

    def run(self) -> dict[str, Any]:
        """Converts the file unless that has been done; returns its manifest entry. Raises DataError."""
        with (
            explained_disk_errors(self.target.parent),
            file_lock(self.target.with_name(f".{self.target.name}.lock")),
        ):
            made_of = self.target.with_name(f".{self.target.stem}.source")
            made = made_of.read_text() if made_of.exists() else ""
            done = made.startswith(self.identity) and self.target.exists() and self.sidecar.exists()
            if not done or made[len(self.identity) :][:1] not in ("", "\n"):
                self.target.unlink(missing_ok=True)
                self.sidecar.unlink(missing_ok=True)
                made = f"{self.identity}\n{self.encoder.encoder}"
                made_of.write_text(made)
                self._write()
        with gzip.open(self.sidecar, "rt", newline="") as file:
            num_documents = sum(1 for _ in csv.reader(file))  # ids may hold line ends
        num_bytes = self.target.stat().st_size
        return {
            "bytes": num_bytes,
            "sha256": hash_file(self.target),
            "tokens": num_bytes // TOKEN_DTYPE.itemsize,
            "documents": num_documents,
            "encoder": made[len(self.identity) + 1 :] or "tokenizers",  # without a word: before there was another one
        }

    def _write(self) -> None:
        counts = RecordCounts()
        num_tokens = 0
        with write_whole(self.target, durable=True) as tokens, write_whole(self.sidecar, durable=True) as sidecar:
            with gzip.GzipFile("", "wb", 6, sidecar, mtime=0) as compressed:
                rows = csv.writer(io.TextIOWrapper(compressed, "utf-8", newline="", write_through=True))
                for records in _batches(read_records(self.source, counts)):
                    counts.documents += len(records)
                    ids, ends = self.encoder.encode_documents([record.text for record in records])
                    tokens.write(ids.astype(TOKEN_DTYPE).data)
                    bounds = [num_tokens, *(num_tokens + ends).tolist()]
                    rows.writerows(
                        (start, end, record.id, self.source.name, record.line)
                        for start, end, record in zip(bounds, bounds[1:], records, strict=False)
                    )
                    num_tokens = bounds[-1]
            if counts.bad_share > self.max_bad_share:
                raise DataError(
                    f"{self.source.path}: {counts.describe_bad()} are unreadable, more than --max-bad-share = "
                    f"{self.max_bad_share:g} allows; {counts.remedy(form_of(self.source).key)}"
                )


def plan(
    root: Path, target: Path, encoder: DocumentEncoder, max_bad_share: float, form: TextForm = PLAIN
) -> list[Conversion]:
    """Returns a conversion for each text file below `root`, in order; compares encoders on the first of each folder.

    Raises DataError if there is none, or if two would have the same target.
    """
    manifest = read_manifest(root)
    folders: set[Path] = set()
    names = find_text_names(root)
    if not names:
        raise DataError(f"{root} holds no .json, .jsonl, .parquet, .arrow or .txt files; give a folder that does")
    conversions: dict[Path, Conversion] = {}
    for name in names:
        file = with_form(describe_file(root, name, manifest.get(name)), form)
        path = target / f"{DATA_SUFFIX.sub('', name)}.npy"
        if path in conversions:
            raise DataError(f"{file.name} and {conversions[path].source.name} would both become {path}; rename one")
        conversions[path] = Conversion(file, path, encoder, max_bad_share)
        if path.parent not in folders:
            folders.add(path.parent)
            encoder.hold_against(name, partial(_first_texts, file))
    return list(conversions.values())


def convert(conversions: list[Conversion], target: Path, tokenizer: Path, num_processes: int) -> Iterator[Conversion]:
    """Runs all conversions, `num_processes` at a time; yields each as it is done. Raises the first DataError."""
    _keep_tokenizer(tokenizer, target)
    for conversion in conversions:
        conversion.target.parent.mkdir(parents=True, exist_ok=True)
    entries = {}
    with ProcessPoolExecutor(num_processes, multiprocessing.get_context("spawn")) as pool:
        futures = {pool.submit(conversion.run): conversion for conversion in conversions}
        try:
            for future in as_completed(futures):
                entries[futures[future]] = future.result()
                yield futures[future]
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    files = {item.target.relative_to(target).as_posix(): entries[item] for item in conversions}
    write_text_whole(target / FILES_NAME, "".join(f"{name}\n" for name in files), durable=True)
    with write_whole(target / MANIFEST_NAME, durable=True) as output:
        output.write(orjson.dumps({"files": files}, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))


def _first_texts(file: DataFile) -> list[str]:
    return first_characters(record.text for record in read_records(file, RecordCounts()))


def _batches(records: Iterator[Record]) -> Iterator[list[Record]]:
    while batch := list(itertools.islice(records, DOCUMENTS_AT_ONCE)):
        yield batch


def _keep_tokenizer(tokenizer: Path, target: Path) -> None:
    """Copies the tokenizer to the folder of the tokens; raises DataError if another one is there."""
    kept = target / TOKENIZER_NAME
    with explained_disk_errors(target):
        target.mkdir(parents=True, exist_ok=True)
        if not kept.exists():
            with write_whole(kept, durable=True) as output:
                output.write(tokenizer.read_bytes())
    if kept.read_bytes() != tokenizer.read_bytes():
        raise DataError(f"{target} was begun with another tokenizer; give that one ({kept}) or an empty folder")
