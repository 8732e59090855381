"""A miniature stage-2 mix on disk: real text, all the encodings of the real mix, a manifest and a tokenizer.

    FOLDER/SOURCE/shard-NN.jsonl[.zst|.gz]   records in the Dolma schema
    FOLDER/tokenizer.json                    byte-level BPE trained on the text, with <|endoftext|>
    FOLDER/manifest.json                     bytes, sha256 and documents per file; written last

A folder with a manifest is complete. Without one, the build was interrupted, and everything is built again.
"""

import gzip
import hashlib
import math
import platform
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import zstandard
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from common.files import write_whole
from data.errors import DataError
from data.fetch.files import MANIFEST_NAME
from data.fetch.locks import file_lock
from data.tokenizer import EOS_TOKEN, TOKENIZER_NAME
from data.tools.sample_texts import (
    Document,
    arithmetic,
    encyclopedia_pages,
    find_modules,
    module_documents,
    reversed_lists,
)

EPOCH = "1970-01-01T00:00:00.000Z"  # for `added` and `created`: a clock would make every build differ
# Words, numbers of up to three digits, punctuation, white space: the way cl100k and OLMo-2's tokenizer split text.
WORD_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True)
class SampleSource:
    """The size of a source and the form of its files; the real mix too has sources of one or two files."""

    share: float
    """Of the text of the sample."""
    num_shards: int
    """Files."""
    suffix: str
    """Their encoding."""


SAMPLE_SOURCES = {
    "web": SampleSource(0.27, 6, ".jsonl.zst"),
    "instructions": SampleSource(0.20, 4, ".jsonl.gz"),
    "encyclopedia": SampleSource(0.12, 2, ".jsonl.gz"),
    "papers": SampleSource(0.10, 3, ".jsonl.zst"),
    "qa": SampleSource(0.06, 3, ".jsonl.gz"),
    "code": SampleSource(0.10, 1, ".jsonl.zst"),
    "math": SampleSource(0.10, 5, ".jsonl"),
    "lists": SampleSource(0.05, 2, ".jsonl"),
}


def build_sample(
    folder: Path,
    *,
    seed: int = 42,
    vocab_size: int = 4096,
    megabytes: float = 20.0,
    report: Callable[[str], None] = print,
) -> bool:
    """Makes the sample in `folder` unless it is there already; returns whether it was made.

    `megabytes` is an upper bound on the text (a source may run out before its share). The same arguments and the same
    Python installation give the same files. Raises DataError for arguments that no sample can be made with.
    """
    if not 0 < megabytes < math.inf or vocab_size <= 256:
        raise DataError(
            f"a sample needs megabytes above 0 and a vocab_size above 256, not {megabytes:g} and {vocab_size}"
        )
    folder.mkdir(parents=True, exist_ok=True)
    shares = {name: item.share for name, item in SAMPLE_SOURCES.items()}
    parameters = {"seed": seed, "vocab_size": vocab_size, "megabytes": megabytes, "shares": shares}
    with file_lock(folder / ".lock"):
        if _is_complete(folder, parameters):
            return False
        (folder / MANIFEST_NAME).unlink(missing_ok=True)
        report("collecting documents")
        collected = collect_documents(seed, {name: share * megabytes * 1e6 for name, share in shares.items()})
        files = {}
        for source, documents in collected.items():
            report(f"writing {source}: {len(documents):,} documents")
            files.update(_write_source(folder, source, documents))
        report(f"training a tokenizer of {vocab_size:,} tokens")
        texts = (document.text for documents in collected.values() for document in documents)
        tokenizer = train_tokenizer(texts, vocab_size).encode()
        files[TOKENIZER_NAME] = _write(folder / TOKENIZER_NAME, tokenizer)
        manifest = {**parameters, "python": platform.python_version(), "files": files}
        with write_whole(folder / MANIFEST_NAME, durable=False) as output:
            output.write(orjson.dumps(manifest, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
    return True


def collect_documents(seed: int, budgets: dict[str, float]) -> dict[str, list[Document]]:
    """Returns the documents of each source in seeded order, up to `budgets[source]` bytes of text each."""
    collected: dict[str, list[Document]] = {source: [] for source in budgets}
    left = dict(budgets)

    def take(document: Document) -> None:
        if left[document.source] > 0:
            collected[document.source].append(document)
            left[document.source] -= len(document.text.encode())

    rng = random.Random(seed)
    modules, pages = find_modules(), list(encyclopedia_pages())
    rng.shuffle(modules)
    rng.shuffle(pages)
    for page in pages:
        take(page)
    for source, without_end in (("math", arithmetic(seed)), ("lists", reversed_lists(seed))):
        while left[source] > 0:
            take(next(without_end))
    for module in modules:
        if all(budget <= 0 for budget in left.values()):
            break
        for document in module_documents(module):
            take(document)
    return collected


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> str:
    """Returns a tokenizer.json of exactly `vocab_size` tokens: byte-level BPE, EOS included.

    Raises DataError for too little text.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORD_PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[EOS_TOKEN],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    if tokenizer.get_vocab_size() != vocab_size:
        raise DataError(
            f"the text is enough for {tokenizer.get_vocab_size()} tokens, not {vocab_size}; raise --megabytes or lower "
            "--vocab-size"
        )
    return tokenizer.to_str(pretty=True)


def _is_complete(folder: Path, parameters: dict[str, Any]) -> bool:
    try:
        manifest = orjson.loads((folder / MANIFEST_NAME).read_bytes())
        sizes = {name: (folder / name).stat().st_size for name in manifest["files"]}
        made_with = {name: manifest[name] for name in parameters}
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return made_with == parameters and all(sizes[name] == entry["bytes"] for name, entry in manifest["files"].items())


def _write_source(folder: Path, source: str, documents: list[Document]) -> dict[str, dict[str, Any]]:
    """Writes the shards of a source; returns their manifest entries."""
    shape = SAMPLE_SOURCES[source]
    (folder / source).mkdir(exist_ok=True)
    entries = {}
    for shard in range(shape.num_shards):
        own = documents[shard :: shape.num_shards]
        name = f"{source}/shard-{shard:02d}{shape.suffix}"
        content = b"".join(orjson.dumps(_record(document)) + b"\n" for document in own)
        entries[name] = {**_write(folder / name, _compress(content, shape.suffix)), "documents": len(own)}
    return entries


def _record(document: Document) -> dict[str, Any]:
    return {
        "id": f"{document.source}/{document.origin}",
        "text": document.text,
        "source": document.source,
        "added": EPOCH,
        "created": EPOCH,
        "metadata": {"origin": document.origin, "length": len(document.text)},
    }


def _compress(content: bytes, suffix: str) -> bytes:
    if suffix.endswith(".zst"):
        return zstandard.ZstdCompressor(level=3, write_checksum=True).compress(content)
    if suffix.endswith(".gz"):
        return gzip.compress(content, compresslevel=6, mtime=0)
    return content


def _write(path: Path, content: bytes) -> dict[str, Any]:
    path.write_bytes(content)
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
