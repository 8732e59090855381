"""The stream of batches: the interface between the data and the trainer.

The global batch of a step is the same rows in the same order for every world size, worker count and micro-batch size. A
rank gets its slice. The state is small and independent of the topology. It holds the cursors after the last batch
returned, however far workers have read ahead: merge the ranks' parts, save them, and load them into any number of
ranks.
"""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from data.config import DataConfig, DataKind
from data.errors import DataError, explained_read_errors
from data.mix import EpochWatch, SourceMix
from data.rows import Backend, Rows, document_boundaries, split_evenly
from data.text.backend import TextBackend
from data.tokenizer import tell_encoder
from data.tokens.backend import TokenBackend
from data.tokens.mixed import MixedTokenBackend
from data.workers import WorkerPool

logger = logging.getLogger(__name__)

ENCODER = "data.encoder"  # of the fingerprint


@dataclass(frozen=True)
class Batch:
    """A rank's rows of one step, R of them, in global order."""

    tokens: np.ndarray
    """uint32 `[R, T]`."""
    loss_mask: np.ndarray
    """bool `[R]`; False: the repetition filter masks the whole row out of the loss."""
    sources: np.ndarray
    """int16 `[R]`, index into the stream's `source_names`."""
    boundaries: list[np.ndarray]
    """Per row, cumulative document lengths: int32 `[0, cuts after each EOS ..., T]`."""


class BatchStream(Protocol):
    """Batches without end, from any cursor."""

    source_names: tuple[str, ...]
    """The names that `Batch.sources` counts."""
    fingerprint: dict[str, str]
    """What order and content depend on, as name -> short value; see `changed_data`."""
    max_token_id: int | None
    """Largest id that can occur; None: not known, for token files without a tokenizer."""
    eos_token_id: int
    """The id that ends every document."""

    def mix(self) -> list[SourceMix]:
        """Returns the share of each source and, as far as it is known, its size; may read some documents."""
        ...

    def next_batch(self) -> Batch:
        """Returns this rank's rows of the next step; raises DataError when they cannot be read."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Returns this rank's part of the state after the last batch; JSON-serialisable, see `merge_states`."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from a merged state, whatever topology wrote it; raises DataError when it does not fit."""
        ...

    def close(self) -> None:
        """Ends worker processes."""
        ...


class RankStream:
    """The implementation of BatchStream: a rank's range of a backend's slots, read in this process or by workers."""

    def __init__(
        self,
        backend: Backend,
        slots: range,
        num_workers: int,
        prefetch: int,
        limits: Mapping[str, float | None] | None = None,
    ) -> None:
        self.source_names = backend.source_names
        self.fingerprint = backend.fingerprint
        self.max_token_id = backend.max_token_id
        self.eos_token_id = backend.eos_token_id
        self._backend = backend
        self._slots = slots
        self._num_workers = num_workers
        self._prefetch = prefetch
        self._limits = limits or {}
        self._told_encoders = {self.fingerprint.get(ENCODER, "")}
        self._num_batches = 0
        self._cursors = backend.start(slots)
        self._steps: Iterator[list[Rows]] | None = None
        self._pool: WorkerPool | None = None
        self._watch: EpochWatch | None = None

    def mix(self) -> list[SourceMix]:
        """Returns the share of each source and, as far as it is known, its size; may read some documents."""
        return self._backend.mix()

    def next_batch(self) -> Batch:
        """Returns this rank's rows of the next step; raises DataError."""
        if self._steps is None:
            self._steps = self._open_steps()
            self._watch = EpochWatch(self.source_names, self._limits, self._backend.epochs(self._cursors))
        with explained_read_errors():
            parts = next(self._steps)
        self._note_encoders(parts)
        self._num_batches += 1
        self._cursors = {name: cursor for part in parts for name, cursor in part.cursors.items()}
        assert self._watch is not None
        for line in self._watch.lines(self._backend.epochs(self._cursors), self._num_batches):
            logger.info("%s", line)
        tokens = np.concatenate([part.tokens for part in parts])
        return Batch(
            tokens=tokens,
            loss_mask=np.concatenate([part.loss_mask for part in parts]),
            sources=np.concatenate([part.sources for part in parts]),
            boundaries=[document_boundaries(row, self.eos_token_id) for row in tokens],
        )

    def state_dict(self) -> dict[str, Any]:
        """Returns this rank's part of the state after the last batch."""
        return {
            "kind": self._backend.kind,
            "batches": self._num_batches,
            "num_streams": self._backend.num_streams,
            "sources": list(self.source_names),
            "streams": dict(self._cursors),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from a merged state; raises DataError when it does not fit."""
        _check_complete(state)
        for key, current in (("kind", self._backend.kind), ("num_streams", self._backend.num_streams)):
            if state[key] != current:
                raise DataError(f"the saved data state has {key} {state[key]}, this run {current}; restore data.{key}")
        self.close()
        self._num_batches = state["batches"]
        saved = {name: state["streams"][name] for name in self._cursors}
        self._cursors = self._backend.restore(saved, state["sources"])

    def close(self) -> None:
        """Ends worker processes."""
        self._steps = None
        if self._pool is not None:
            self._pool.close()
            self._pool = None

    def _note_encoders(self, parts: list[Rows]) -> None:
        """Puts what encodes into the fingerprint, all of it if workers differ, and says what had not encoded before."""
        encoders = {part.encoder: part.encoder_problem for part in parts if part.encoder}
        if encoders:
            self.fingerprint[ENCODER] = " and ".join(sorted(encoders))
        for encoder in sorted(encoders.keys() - self._told_encoders):
            self._told_encoders.add(encoder)
            tell_encoder(encoder, encoders[encoder])

    def _open_steps(self) -> Iterator[list[Rows]]:
        if not self._num_workers:
            return ([rows] for rows in self._backend.read(self._slots, self._cursors))
        self._pool = WorkerPool(self._backend, self._slots, self._cursors, self._num_workers, self._prefetch)
        return iter(self._pool)


def build_stream(
    config: DataConfig, *, sequence_length: int, global_batch_size: int, rank: int = 0, world_size: int = 1
) -> BatchStream:
    """Returns the stream of one rank, at its beginning; `global_batch_size` counts rows of `sequence_length` tokens.

    Raises DataError, with the remedy, for anything wrong with the configuration or the files.
    """
    config.validate()
    if global_batch_size % world_size:
        raise DataError(
            f"the global batch size of {global_batch_size} rows cannot be shared by {world_size} ranks; "
            f"make it a multiple of {world_size}"
        )
    if config.kind is DataKind.text:
        _check_num_streams(config.num_streams, global_batch_size, world_size)
    make: type[TextBackend | TokenBackend] = TextBackend
    if config.kind is DataKind.tokens:
        make = TokenBackend if config.file_list is not None else MixedTokenBackend
    backend = make(config, sequence_length, global_batch_size)
    slots = split_evenly(backend.num_slots, rank, world_size)
    used = config.sources if config.kind is DataKind.text or config.file_list is None else {}
    limits = {name: source.max_epochs for name, source in used.items()}
    return RankStream(backend, slots, config.num_workers, config.prefetch, limits)


def merge_states(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """Returns the global state from every rank's part, in any order.

    Raises DataError when parts are of different runs or steps, contradict each other, or leave streams out.
    """
    merged = {**parts[0], "streams": {}}
    for part in parts:
        for key in ("kind", "batches", "num_streams"):
            if part[key] != merged[key]:
                raise DataError(f"data states of one step must agree in {key}, not {merged[key]} and {part[key]}")
        for name, cursor in part["streams"].items():
            if merged["streams"].setdefault(name, cursor) != cursor:
                raise DataError(f"two ranks report different cursors of data stream {name}; save all ranks at one step")
    _check_complete(merged)
    return merged


def changed_data(saved: Mapping[str, str], current: Mapping[str, str]) -> dict[str, tuple[str | None, str | None]]:
    """Returns key -> (value then, value now) for all keys in which two fingerprints differ.

    Without `data.encoder`, which is there to be read: encoders are used where they give the same ids. If no others
    differ, a loaded state goes on with the very next row. If there are some and they are accepted, each
    source goes on from its old cursor in its new order: documents may come twice, or not at all.
    """
    names = [name for name in {**saved, **current} if name != ENCODER]
    return {name: (saved.get(name), current.get(name)) for name in names if saved.get(name) != current.get(name)}


def _check_num_streams(num_streams: int, global_batch_size: int, world_size: int) -> None:
    """Raises DataError, naming all numbers that fit, unless the batch and the ranks share out the streams evenly."""
    if global_batch_size % num_streams:
        problem = f"does not divide the global batch size of {global_batch_size} rows"
    elif num_streams % world_size:
        problem = f"cannot be shared by {world_size} ranks"
    else:
        return
    numbers = range(world_size, global_batch_size + 1, world_size)
    fitting = [number for number in numbers if global_batch_size % number == 0]
    raise DataError(f"data.num_streams = {num_streams} {problem}; set it to one of {fitting}")


def _check_complete(state: Mapping[str, Any]) -> None:
    if len(state["streams"]) != state["num_streams"]:
        raise DataError(
            f"the data state has {len(state['streams'])} of {state['num_streams']} streams; merge the parts of all "
            "ranks"
        )
