"""Text to rows, as S logical streams: the batch is a pure function of the step, for every topology.

    files -> frames (ingest.py, once) -> units in seeded order (order.py) -> tokens -> rows (packing.py)
                                                                     one packer per (stream, source) |
                         global batch = rows of stream 0, rows of stream 1, ...  <- mixed (mixing.py)

A stream has its own share of every source's documents and mixes them by itself, independent of all others. Processes
read whole streams: any number of ranks and workers that divides them up produces the same global batch, and a stream's
cursor (a row number, and a cursor in each source) means the same wherever it is loaded.
"""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from data.config import DataConfig, DataKind, RepetitionFilterConfig
from data.fetch.files import DataFile, digest_files
from data.fetch.quota import CacheQuota
from data.fetch.roots import Root, locate_tokenizer, open_root
from data.filters import is_repetitive
from data.mix import SourceMix
from data.rows import Rows
from data.text.estimate import estimate_tokens
from data.text.form import find_text_files, form_of
from data.text.ingest import FrameCache
from data.text.mixing import Mixer
from data.text.order import Source
from data.text.packing import Cursor, RowPacker
from data.tokenizer import DocumentEncoder, first_characters, tell_encoder

logger = logging.getLogger(__name__)


class LogicalStream:
    """One of the S logical streams: rows from all sources, mixed by weight."""

    def __init__(self, number: int, mixer: Mixer, packers: list[RowPacker], row: int) -> None:
        self._number = number
        self._mixer = mixer
        self._packers = packers
        self._row = row

    def next_row(self) -> tuple[np.ndarray, int]:
        """Returns tokens, uint32 `[T]`, and the index of their source; raises DataError."""
        source = self._mixer.source(self._number, self._row)
        self._row += 1
        return self._packers[source].next_row(), source

    def cursor(self) -> dict[str, Any]:
        """Returns the number of rows read, and the cursor in each source."""
        return {"row": self._row, "cursors": [list(packer.cursor) for packer in self._packers]}


class TextBackend:
    """Rows of text; one slot per logical stream."""

    kind = DataKind.text.value

    def __init__(self, config: DataConfig, sequence_length: int, global_batch_size: int) -> None:
        """Finds the files and ingests enough of them to start; raises DataError. The streams divide the batch."""
        root = open_root(config.root, config.cache_dir)
        tokenizer = locate_tokenizer(str(config.tokenizer), root)
        self.encoder = DocumentEncoder(tokenizer, config.eos_token, config.encoder, root.cache, compares_later=True)
        quota = CacheQuota(root.cache, config.max_cache_gib)
        self.cache = FrameCache(root.frames, config.frame_bytes, config.max_bad_share, quota)
        self.sources = _open_sources(config, root, self.cache)
        self.source_names = tuple(source.name for source in self.sources)
        self.weights = [config.sources[name].weight for name in self.source_names]
        self._max_epochs = {name: config.sources[name].max_epochs for name in self.source_names}
        self.mixer = Mixer(self.weights, config.num_streams, config.seed)
        self.max_token_id: int | None = self.encoder.max_token_id
        self.eos_token_id = self.encoder.eos_token_id
        self.num_slots = self.num_streams = config.num_streams
        self.sequence_length = sequence_length
        self.rows_per_stream = global_batch_size // config.num_streams
        self.rule: RepetitionFilterConfig = config.repetition_filter
        self.fingerprint = _fingerprint(config, self)
        if root.remote is None:  # else the first files may have been evicted, and resuming does not need them
            for source in self.sources:
                source.check()
        self._check_encoder(config)

    def _check_encoder(self, config: DataConfig) -> None:
        """Has the encoders compared on every source's first documents; loads `tokenizers`, for workers to share.

        What no earlier start has compared, a process compares when it first needs the fast encoder.
        """
        for source in self.sources:
            form = form_of(source.files[0]).identity  # the same files have other documents in another form
            parts = [self.fingerprint[f"data.sources.{source.name}.files"], *map(" ".join, form.items())]
            self.encoder.hold_against(f"{source.name} ({', '.join(parts)})", partial(_first_characters, source))
        self.fingerprint["data.encoder"] = self.encoder.encoder
        if not self.encoder.problem:  # which has been told
            tell_encoder(self.encoder.encoder)
        if config.num_workers:
            self.encoder.load()

    def start(self, slots: range) -> dict[str, Any]:
        """Returns cursors at the beginning of all sources."""
        fresh = {"row": 0, "cursors": [list(Cursor())] * len(self.sources)}
        return {str(stream): fresh for stream in slots}

    def restore(self, cursors: Mapping[str, Any], source_names: Sequence[str]) -> dict[str, Any]:
        """Returns cursors with which each source goes on from its own, and a new source starts at its beginning."""
        restored = {}
        for stream, cursor in cursors.items():
            saved = dict(zip(source_names, cursor["cursors"], strict=True))
            in_sources = [self._restored(source, Cursor(*saved.get(source.name, Cursor()))) for source in self.sources]
            restored[stream] = {"row": cursor["row"], "cursors": in_sources}
        return restored

    def _restored(self, source: Source, cursor: Cursor) -> list[int]:
        return list(cursor if cursor.group < source.num_groups else Cursor(cursor.epoch + 1))

    def epochs(self, cursors: Mapping[str, Any]) -> list[int]:
        """Returns the epoch, from 0, that half of the streams have reached, for each source.

        Each reads a share of its own. When half of them have begun theirs again, about as much as the source was read.
        """
        by_source = zip(*([at[0] for at in c["cursors"]] for c in cursors.values()), strict=True)
        return [sorted(epochs)[len(epochs) // 2] for epochs in by_source]

    def mix(self) -> list[SourceMix]:
        """Returns the share of each source, and its tokens as far as the files that are ingested tell."""
        total = sum(self.weights)
        return [
            SourceMix(
                source.name, weight / total, *estimate_tokens(source, self.encoder), self._max_epochs[source.name]
            )
            for source, weight in zip(self.sources, self.weights, strict=True)
        ]

    def read(self, slots: range, cursors: Mapping[str, Any]) -> Iterator[Rows]:
        """Yields `rows_per_stream` rows of each stream per step; raises DataError."""
        self._fetch_first(cursors[str(stream)] for stream in slots)
        streams = {str(stream): self._open_stream(stream, cursors[str(stream)]) for stream in slots}
        num_rows = len(streams) * self.rows_per_stream
        while True:
            tokens = np.empty((num_rows, self.sequence_length), np.uint32)
            sources = np.empty(num_rows, np.int16)
            row = 0
            for stream in streams.values():
                for _ in range(self.rows_per_stream):
                    tokens[row], sources[row] = stream.next_row()
                    row += 1
            loss_mask = np.array([not is_repetitive(row_tokens, self.rule) for row_tokens in tokens], bool)
            cursors = {name: stream.cursor() for name, stream in streams.items()}
            yield Rows(tokens, loss_mask, sources, cursors, self.encoder.encoder, self.encoder.problem)

    def _fetch_first(self, cursors: Iterable[Mapping[str, Any]]) -> None:
        """Fetches the files to start with, of all sources at once."""
        at = {(number, *in_source[:2]) for cursor in cursors for number, in_source in enumerate(cursor["cursors"])}
        needed: dict[str, list[DataFile]] = {source.name: [] for source in self.sources}
        for number, epoch, group in sorted(at):
            source = self.sources[number]
            needed[source.name] += source.group_files(epoch, group)
        self.cache.fetch(needed)

    def _open_stream(self, stream: int, cursor: Mapping[str, Any]) -> LogicalStream:
        packers = [
            RowPacker(source, self.encoder, stream, self.sequence_length, Cursor(*in_source))
            for source, in_source in zip(self.sources, cursor["cursors"], strict=True)
        ]
        return LogicalStream(stream, self.mixer, packers, cursor["row"])


def training_files(config: DataConfig, root: Root) -> dict[str, list[DataFile]]:
    """Returns the files of each source with a weight above 0, in the order of the config; raises DataError."""
    return {
        name: find_text_files(config, source, f"data.sources.{name}", root)
        for name, source in config.sources.items()
        if source.weight > 0.0
    }


def _first_characters(source: Source) -> list[str]:
    return first_characters(source.first_texts())


def _open_sources(config: DataConfig, root: Root, cache: FrameCache) -> list[Source]:
    return [
        Source(
            name=name,
            files=files,
            cache=cache,
            seed=config.seed,
            num_streams=config.num_streams,
            files_per_group=config.files_per_group,
            held_out_share=config.validation.share,
        )
        for name, files in training_files(config, root).items()
    ]


def _fingerprint(config: DataConfig, backend: TextBackend) -> dict[str, str]:
    """Returns what order and content depend on; not the batch size: streams can go on with other rows per step."""
    rule = config.repetition_filter
    total = sum(backend.weights)
    values = {
        "data.kind": backend.kind,
        "data.sources": " ".join(backend.source_names),
        "data.tokenizer": backend.encoder.sha256[:12],
        "data.eos_token": config.eos_token,
        "data.seed": config.seed,
        "data.num_streams": config.num_streams,
        "data.frame_bytes": config.frame_bytes,
        "data.files_per_group": config.files_per_group,
        "data.repetition_filter": str(rule),
        "sequence_length": backend.sequence_length,
    }
    if config.validation.share > 0.0:
        values["data.validation.share"] = f"{config.validation.share:.12g}"
    for source, weight in zip(backend.sources, backend.weights, strict=True):
        values[f"data.sources.{source.name}.weight"] = f"{weight / total:.12g}"
        values[f"data.sources.{source.name}.files"] = (
            f"{len(source.files)} files {digest_files(source.files, contents=True)}"
        )
        for name, value in form_of(source.files[0]).identity.items():  # nothing for the defaults
            values[f"data.sources.{source.name}.{name}"] = value
    return {name: str(value) for name, value in values.items()}
