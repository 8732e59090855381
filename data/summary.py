"""What a folder of text holds, source by source: every document is read and tokenised, nothing is estimated."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from data.errors import DataError
from data.files import find_files, read_manifest
from data.frames import RecordCounts
from data.ingest import read_texts
from data.tokenizer import DocumentEncoder

DOCUMENTS_AT_ONCE = 1000


@dataclass
class SourceSummary:
    """Counts of one source; tokens include an EOS per document."""

    name: str
    num_files: int
    counts: RecordCounts
    num_tokens: int = 0


def summarise(root: Path, encoder: DocumentEncoder) -> Iterator[SourceSummary]:
    """One summary per folder of `root`; DataError where there is none, or a file is torn."""
    folders = sorted(path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not folders:
        raise DataError(f"{root} has no folders; give a folder that holds one folder per source")
    manifest = read_manifest(root)
    for folder in folders:
        files = find_files(root, [f"{folder}/**/*.json*"], folder, manifest)
        summary = SourceSummary(folder, len(files), RecordCounts())
        texts = itertools.chain.from_iterable(read_texts(file, summary.counts) for file in files)
        while batch := list(itertools.islice(texts, DOCUMENTS_AT_ONCE)):
            summary.counts.documents += len(batch)
            summary.counts.text_bytes += sum(len(text.encode()) for text in batch)
            summary.num_tokens += len(encoder.encode(batch))
        yield summary
