"""The order of a source's documents: a pure function of the seed, the same for every process that asks.

Files come in a seeded order and in groups; the frames of a group are the units that are shuffled. Stream s of S reads
every S-th unit, so the streams share out each epoch's documents between them. A source too small to give every stream
a unit has its frames cut into slices. Documents of a unit are shuffled once more, and stay neighbours.
"""

import hashlib
import math
from dataclasses import dataclass, field

import numpy as np

from data.errors import DataError
from data.fetch.background import Background
from data.fetch.files import DataFile
from data.text.frames import FrameFile
from data.text.ingest import FrameCache

UNITS_PER_STREAM = 2  # wanted of each group, as far as there are documents
KEPT_GROUPS = 4  # streams of one process are in the same group, or at the turn to the next


@dataclass(frozen=True)
class Group:
    """A few ingested files, and their units in reading order.

    A unit is every `step`-th document of a frame: int64 `[num_units, 4]`, columns file, frame, first document, step.
    """

    files: list[FrameFile]
    units: np.ndarray


@dataclass
class Source:
    """One source of the mix, as endless epochs of groups."""

    name: str
    files: list[DataFile]
    cache: FrameCache
    seed: int
    num_streams: int
    files_per_group: int
    _groups: dict[tuple[int, int], Group] = field(default_factory=dict, repr=False)
    _background: Background = field(default_factory=Background, repr=False)
    _ahead: tuple[int, int] = (-1, -1)
    _size_of_only_group: int | None = None

    def __post_init__(self) -> None:
        self._first_turn = int(permutation(self.num_streams, self.seed, self.name, "turns")[0])

    @property
    def num_groups(self) -> int:
        return math.ceil(len(self.files) / self.files_per_group)

    def check(self) -> None:
        """Ingest groups of the first epoch until one has a document; DataError if none has, or a file is refused."""
        if not any(len(self.group(0, number).units) for number in range(self.num_groups)):
            raise self.empty()

    def empty(self) -> DataError:
        """What is wrong with a source without documents."""
        return DataError(
            f"data.sources.{self.name}: its files hold no documents; correct the files or give it weight 0"
        )

    def group(self, epoch: int, number: int) -> Group:
        """The `number`-th group of an epoch, ingested if it is not yet."""
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
        """The files of a group."""
        order = permutation(len(self.files), self.seed, self.name, "files", epoch)
        return [self.files[index] for index in order[number * self.files_per_group :][: self.files_per_group]]

    def look_ahead(self, epoch: int, number: int) -> None:
        """Begin, in the background, to fetch and ingest the group that comes after this one."""
        following = (epoch, number + 1) if number + 1 < self.num_groups else (epoch + 1, 0)
        if following > self._ahead and self.num_groups > 1:
            self._ahead = following
            self._background.submit(lambda: self.cache.prepare(self.group_files(*following), self.name))

    def num_units(self, epoch: int, number: int) -> int:
        """Units of a group. The only group of a source has as many in every epoch: those are quick to pass over."""
        if self.num_groups > 1:
            return len(self.group(epoch, number).units)
        if self._size_of_only_group is None:
            self._size_of_only_group = len(self.group(epoch, number).units)
        return self._size_of_only_group

    def documents(self, epoch: int, number: int, stream: int, unit: int) -> list[str] | None:
        """The texts of a stream's `unit`-th unit in a group, in their order; None: it has no more units there.

        Streams take turns: the first unit of a group goes to the stream after the one that had the last of the group
        before, so that each has its share of a handful of units in time.
        """
        num_units = self.num_units(epoch, number)
        turn = self._first_turn - (epoch * self.num_groups + number) * num_units
        place = (stream + turn) % self.num_streams + unit * self.num_streams
        if place >= num_units:
            return None
        while True:
            group = self.group(epoch, number)
            file, frame, start, step = map(int, group.units[place])
            try:
                texts = group.files[file].read_frame(frame, start, step)
            except FileNotFoundError:  # another process has made room with it
                del self._groups[epoch, number]
                continue
            return [texts[n] for n in permutation(len(texts), self.seed, self.name, "documents", epoch, number, place)]


def permutation(size: int, *key: str | int) -> np.ndarray:
    """A permutation of `range(size)` that depends on the key alone.

    Sorts raw Philox output: numpy keeps bit streams stable between versions, but not what `Generator` makes of them.
    """
    digest = hashlib.blake2b(repr(key).encode(), digest_size=16).digest()
    random = np.random.Philox(key=np.frombuffer(digest, "<u8").astype(np.uint64)).random_raw(size)
    return np.argsort(random, kind="stable")


def _cut_units(files: list[FrameFile], num_wanted: int) -> np.ndarray:
    """All documents of the files as units, in order: at least `num_wanted` where there are as many documents."""
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
