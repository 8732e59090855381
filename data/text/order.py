"""The order of a source's documents: a pure function of the seed, the same in every process.

Files come in a seeded order and in groups; the frames of a group are the units that are shuffled. Stream s of S reads
every S-th unit, so the streams share out each epoch's documents between them. A source too small to give every stream
a unit has its frames cut into slices. Documents of a unit are shuffled once more, and stay together.

Documents that are held out for validation are skipped as units are read: files, frames and units are the same with and
without them.
"""

import hashlib
import math
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np

from data.errors import DataError
from data.fetch.background import Background
from data.fetch.files import DataFile
from data.text.form import form_of
from data.text.frames import FrameFile, RecordCounts
from data.text.holdout import is_held_out
from data.text.ingest import FrameCache
from data.text.records import is_table, read_first_records
from data.tokenizer import Piece

UNITS_PER_STREAM = 2  # that a group is cut into, as far as there are documents
KEPT_GROUPS = 4  # in memory; the streams of one process are in the same group, or in the next one


@dataclass(frozen=True)
class Group:
    """A few ingested files, and their units in reading order."""

    files: list[FrameFile]
    """The files of the group."""
    units: np.ndarray
    """int64 `[num_units, 4]`: file, frame, first document, step. A unit is every `step`-th document of a frame."""


@dataclass
class Source:
    """One source of the mix, as endless epochs of groups of files."""

    name: str
    """Its key in `data.sources`."""
    files: list[DataFile]
    """All of its files."""
    cache: FrameCache
    """Where its documents are read from."""
    seed: int
    """Determines the order."""
    num_streams: int
    """Streams that share its documents."""
    files_per_group: int
    """Files that are ingested and shuffled together."""
    held_out_share: float = 0.0
    """Share of documents that are never returned (holdout.py)."""
    _groups: dict[tuple[int, int], Group] = field(default_factory=dict, repr=False)
    _background: Background = field(default_factory=Background, repr=False)
    _ahead: tuple[int, int] = (-1, -1)
    _size_of_only_group: int | None = None
    _has_documents: bool = False

    def __post_init__(self) -> None:
        self._first_turn = int(permutation(self.num_streams, self.seed, self.name, "turns")[0])

    @property
    def cut(self) -> Callable[[str], list[Piece]]:
        """What cuts its documents into pieces."""
        return form_of(self.files[0]).cut

    @property
    def num_groups(self) -> int:
        """Groups in an epoch."""
        return math.ceil(len(self.files) / self.files_per_group)

    def check(self) -> None:
        """Ingests groups of the first epoch until one has a document; raises DataError if none has one."""
        if not any(len(self.group(0, number).units) for number in range(self.num_groups)):
            raise no_documents_error(self.name)
        self.check_holdout()

    def check_holdout(self) -> None:
        """Raises DataError if all documents are held out: without this check, a stream would search for one forever.

        Reads units of the first epoch until one has a document to train on; nothing, if one was read before.
        """
        if self.held_out_share == 0.0:
            return
        for number in range(self.num_groups):
            for place in range(len(self.group(0, number).units)):
                if self._has_documents or self._read_unit(0, number, place):
                    self._has_documents = True
                    return
        raise all_held_out_error(self.name, self.held_out_share)

    def group(self, epoch: int, number: int) -> Group:
        """Returns the `number`-th group of an epoch, ingested if it is not yet; raises DataError."""
        key = (epoch, number)
        if key not in self._groups:
            files = self.cache.open(self.group_files(epoch, number), self.name)
            units = _cut_units(files, UNITS_PER_STREAM * self.num_streams)
            units = units[permutation(len(units), self.seed, self.name, "units", epoch, number)]
            if len(self._groups) == KEPT_GROUPS:
                self._groups.pop(next(iter(self._groups)))
            self._groups[key] = Group(files, units)
        return self._groups[key]

    def group_files(self, epoch: int, number: int) -> list[DataFile]:
        """Returns the files of a group."""
        order = permutation(len(self.files), self.seed, self.name, "files", epoch)
        return [self.files[index] for index in order[number * self.files_per_group :][: self.files_per_group]]

    def first_texts(self) -> Iterator[str]:
        """Yields what is encoded of the first group's documents, in order: the texts between special tokens.

        As far as they can be read without storing or ingesting any: there are none of a remote table that has not been
        ingested, and of a server that does not answer.
        """
        for document in self._first_documents():
            yield from (piece.text for piece in self.cut(document) if not piece.is_special)

    def look_ahead(self, epoch: int, number: int) -> None:
        """Starts to fetch and ingest, in the background, the group that comes after this one."""
        following = (epoch, number + 1) if number + 1 < self.num_groups else (epoch + 1, 0)
        if following > self._ahead and self.num_groups > 1:
            self._ahead = following
            self._background.submit(lambda: self.cache.prepare(self.group_files(*following), self.name))

    def num_units(self, epoch: int, number: int) -> int:
        """Returns the number of units of a group; without reading it again where a source has only one group."""
        if self.num_groups > 1:
            return len(self.group(epoch, number).units)
        if self._size_of_only_group is None:
            self._size_of_only_group = len(self.group(epoch, number).units)
        return self._size_of_only_group

    def documents(self, epoch: int, number: int, stream: int, unit: int) -> list[str] | None:
        """Returns the texts of a stream's `unit`-th unit in a group, in order, perhaps none; None: no such unit.

        Streams take turns: the first unit of a group goes to the stream after the one that had the last unit of the
        group before, so that each stream gets its share of a few units over the epochs.
        """
        num_units = self.num_units(epoch, number)
        turn = self._first_turn - (epoch * self.num_groups + number) * num_units
        place = (stream + turn) % self.num_streams + unit * self.num_streams
        if place >= num_units:
            return None
        texts = self._read_unit(epoch, number, place)
        self._has_documents = self._has_documents or bool(texts)
        return texts

    def _first_documents(self) -> Iterator[str]:
        with suppress(DataError, OSError):  # said where the files are needed, which may be never
            for file in self.group_files(0, 0):
                if frames := self.cache.known([file], 1).get(file.name):
                    for number in range(len(frames.num_documents)):
                        yield from frames.read_frame(number)
                elif not is_table(file):
                    yield from (record.text for record in read_first_records(file, RecordCounts()))

    def _read_unit(self, epoch: int, number: int, place: int) -> list[str]:
        while True:
            group = self.group(epoch, number)
            file, frame, start, step = map(int, group.units[place])
            try:
                texts = group.files[file].read_frame(frame, start, step)
            except FileNotFoundError:  # another process has evicted it
                del self._groups[epoch, number]
                continue
            order = permutation(len(texts), self.seed, self.name, "documents", epoch, number, place)
            return [texts[n] for n in order if not is_held_out(texts[n], self.held_out_share)]


def no_documents_error(name: str) -> DataError:
    """Returns the error for a source whose files are empty."""
    return DataError(f"data.sources.{name}: its files hold no documents; correct the files or give it weight 0")


def all_held_out_error(name: str, share: float) -> DataError:
    """Returns the error for a source of which nothing is left to train on."""
    return DataError(
        f"data.sources.{name}: data.validation.share = {share:g} holds out all of its documents; lower the share or "
        "give the source weight 0"
    )


def permutation(size: int, *key: str | int) -> np.ndarray:
    """Returns a permutation of `range(size)` that depends on the key alone.

    Sorts raw Philox output: numpy guarantees the same bits in all versions, but not the same results of `Generator`.
    """
    digest = hashlib.blake2b(repr(key).encode(), digest_size=16).digest()
    random = np.random.Philox(key=np.frombuffer(digest, "<u8").astype(np.uint64)).random_raw(size)
    return np.argsort(random, kind="stable")


def _cut_units(files: list[FrameFile], num_wanted: int) -> np.ndarray:
    """Returns all documents of the files as units, in order: at least `num_wanted` if there are as many documents."""
    num_documents = np.concatenate([file.num_documents for file in files])
    file_index = np.repeat(np.arange(len(files)), [len(file.num_documents) for file in files])
    frame_index = np.concatenate([np.arange(len(file.num_documents)) for file in files])
    num_slices = np.minimum(num_documents, math.ceil(num_wanted / max(1, len(num_documents))))
    first = np.cumsum(num_slices) - num_slices
    start = np.arange(num_slices.sum()) - np.repeat(first, num_slices)
    columns = (
        np.repeat(file_index, num_slices),
        np.repeat(frame_index, num_slices),
        start,
        np.repeat(num_slices, num_slices),
    )
    return np.stack(columns, axis=1)
