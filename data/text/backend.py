"""Text to rows, as S logical streams: the batch is a pure function of the step, for every topology.

    files -> frames (ingest.py, once) -> units in seeded order (order.py) -> tokens -> rows (packing.py)
                                                                     one packer per (stream, source) |
                         global batch = rows of stream 0, rows of stream 1, ...  <- mixed (mixing.py)

A stream owns its share of every source's documents and mixes them by itself; it never looks at another. Processes take
whole streams: any number of ranks and workers that divides them up produces the same global batch, and a stream's state
(a row number and cursors) means the same wherever it is loaded.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from data.config import DataConfig, DataKind, RepetitionFilterConfig
from data.errors import DataError
from data.fetch.files import DataFile, digest_files
from data.fetch.quota import Room
from data.fetch.roots import Root, locate_tokenizer, open_root
from data.filters import is_repetitive
from data.rows import Rows
from data.text.ingest import FrameCache
from data.text.mixing import Mixer
from data.text.order import Source
from data.text.packing import Cursor, RowPacker
from data.tokenizer import DocumentEncoder


class LogicalStream:
    """One of the S streams: rows from all sources, mixed by weight."""

    def __init__(self, number: int, mixer: Mixer, packers: list[RowPacker], row: int) -> None:
        self._number = number
        self._mixer = mixer
        self._packers = packers
        self._row = row

    def next_row(self) -> tuple[np.ndarray, int]:
        """Tokens, uint32 `[T]`, and the index of their source."""
        source = self._mixer.source(self._number, self._row)
        self._row += 1
        return self._packers[source].next_row(), source

    def position(self) -> dict[str, Any]:
        """Rows so far, and the cursor in each source."""
        return {"row": self._row, "cursors": [list(packer.cursor) for packer in self._packers]}


class TextBackend:
    """Rows of text; one slot per logical stream."""

    kind = DataKind.text.value

    def __init__(self, config: DataConfig, sequence_length: int, global_batch_size: int) -> None:
        """Resolves and ingests enough of the files to start; raises DataError for whatever is wrong with them."""
        if global_batch_size % config.num_streams:
            raise DataError(
                f"data.num_streams = {config.num_streams} does not divide the global batch size of "
                f"{global_batch_size} rows; set it to one of {divisors(global_batch_size)}"
            )
        root = open_root(config.root, config.cache_dir)
        self.encoder = DocumentEncoder(locate_tokenizer(str(config.tokenizer), root), config.eos_token)
        room = Room(root.cache, config.max_cache_gib)
        self.cache = FrameCache(root.frames, config.frame_bytes, config.max_bad_share, room)
        self.sources = _open_sources(config, root, self.cache)
        self.source_names = tuple(source.name for source in self.sources)
        self.weights = [config.sources[name].weight for name in self.source_names]
        self.mixer = Mixer(self.weights, config.num_streams, config.seed)
        self.max_token_id: int | None = self.encoder.max_token_id
        self.eos_token_id = self.encoder.eos_token_id
        self.num_slots = self.num_streams = config.num_streams
        self.sequence_length = sequence_length
        self.rows_per_stream = global_batch_size // config.num_streams
        self.rule: RepetitionFilterConfig = config.repetition_filter
        self.fingerprint = _fingerprint(config, self)
        if root.remote is None:  # else the files of the beginning may be gone by now, and nobody needs them to resume
            for source in self.sources:
                source.check()

    def start(self, slots: range) -> dict[str, Any]:
        """No rows yet, all cursors at the beginning."""
        fresh = {"row": 0, "cursors": [list(Cursor())] * len(self.sources)}
        return {str(stream): fresh for stream in slots}

    def restore(self, positions: Mapping[str, Any], source_names: Sequence[str]) -> dict[str, Any]:
        """Each source goes on from its own cursors; one that was not there begins."""
        restored = {}
        for stream, position in positions.items():
            saved = dict(zip(source_names, position["cursors"], strict=True))
            cursors = [self._restored(source, Cursor(*saved.get(source.name, Cursor()))) for source in self.sources]
            restored[stream] = {"row": position["row"], "cursors": cursors}
        return restored

    def _restored(self, source: Source, cursor: Cursor) -> list[int]:
        return list(cursor if cursor.group < source.num_groups else Cursor(cursor.epoch + 1))

    def read(self, slots: range, positions: Mapping[str, Any]) -> Iterator[Rows]:
        """`rows_per_stream` rows of each stream per step."""
        self._fetch_first(positions[str(stream)] for stream in slots)
        streams = {str(stream): self._open_stream(stream, positions[str(stream)]) for stream in slots}
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
            yield Rows(tokens, loss_mask, sources, {name: stream.position() for name, stream in streams.items()})

    def _fetch_first(self, positions: Iterable[Mapping[str, Any]]) -> None:
        """Fetch the files to start with, of all sources at once."""
        at = {(number, *cursor[:2]) for position in positions for number, cursor in enumerate(position["cursors"])}
        needed: dict[str, list[DataFile]] = {source.name: [] for source in self.sources}
        for number, epoch, group in sorted(at):
            source = self.sources[number]
            needed[source.name] += source.group_files(epoch, group)
        self.cache.fetch(needed)

    def _open_stream(self, stream: int, position: Mapping[str, Any]) -> LogicalStream:
        packers = [
            RowPacker(source, self.encoder, stream, self.sequence_length, Cursor(*cursor))
            for source, cursor in zip(self.sources, position["cursors"], strict=True)
        ]
        return LogicalStream(stream, self.mixer, packers, position["row"])


def divisors(number: int) -> list[int]:
    """All divisors, ascending."""
    return [divisor for divisor in range(1, number + 1) if number % divisor == 0]


def _open_sources(config: DataConfig, root: Root, cache: FrameCache) -> list[Source]:
    """The sources with a weight above 0, in the order of the config."""
    return [
        Source(
            name=name,
            files=root.find(source.files, f"data.sources.{name}.files"),
            cache=cache,
            seed=config.seed,
            num_streams=config.num_streams,
            files_per_group=config.files_per_group,
        )
        for name, source in config.sources.items()
        if source.weight > 0.0
    ]


def _fingerprint(config: DataConfig, backend: TextBackend) -> dict[str, str]:
    """What order and content depend on. Not the batch size: a stream can go on with more or fewer rows a step."""
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
    for source, weight in zip(backend.sources, backend.weights, strict=True):
        values[f"data.sources.{source.name}.weight"] = f"{weight / total:.12g}"
        values[f"data.sources.{source.name}.files"] = (
            f"{len(source.files)} files {digest_files(source.files, contents=True)}"
        )
    return {name: str(value) for name, value in values.items()}
