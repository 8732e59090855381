"""Reading a stream as all of its ranks together, for tests."""

import dataclasses
import json
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from typing import Any

import numpy as np

from data.config import DataConfig
from data.stream import Batch, build_stream, merge_states
from data.tokenizer import DocumentEncoder, Piece, cut_document


def read_global(
    config: DataConfig,
    num_steps: int,
    *,
    world_size: int = 1,
    num_workers: int = 0,
    state: dict[str, Any] | None = None,
    length: int = 64,
    batch_size: int = 16,
) -> tuple[list[Batch], dict[str, Any]]:
    """Global batches, and the merged state after them, having been through JSON."""
    config = dataclasses.replace(config, num_workers=num_workers)
    with ExitStack() as stack:
        ranks = [
            stack.enter_context(
                closing(
                    build_stream(
                        config, sequence_length=length, global_batch_size=batch_size, rank=rank, world_size=world_size
                    )
                )
            )
            for rank in range(world_size)
        ]
        for rank in ranks:
            if state is not None:
                rank.load_state_dict(state)
        batches = [join([rank.next_batch() for rank in ranks]) for _ in range(num_steps)]
        merged = merge_states([rank.state_dict() for rank in reversed(ranks)])
    return batches, json.loads(json.dumps(merged))


def join(parts: list[Batch]) -> Batch:
    """The global batch, from the ranks' in order."""
    return Batch(
        tokens=np.concatenate([part.tokens for part in parts]),
        loss_mask=np.concatenate([part.loss_mask for part in parts]),
        sources=np.concatenate([part.sources for part in parts]),
        boundaries=[row for part in parts for row in part.boundaries],
    )


def assert_same(left: list[Batch], right: list[Batch]) -> None:
    """Equal in every row, its source, mask and boundaries."""
    assert len(left) == len(right)
    for one, other in zip(left, right, strict=True):
        np.testing.assert_array_equal(one.tokens, other.tokens)
        np.testing.assert_array_equal(one.loss_mask, other.loss_mask)
        np.testing.assert_array_equal(one.sources, other.sources)
        for row, other_row in zip(one.boundaries, other.boundaries, strict=True):
            np.testing.assert_array_equal(row, other_row)


def encode_each(
    encoder: DocumentEncoder, documents: Sequence[str], cut: Callable[[str], list[Piece]] = cut_document
) -> list[np.ndarray]:
    """Returns the tokens and EOS of each document: uint32 `[num_tokens]` each."""
    tokens, ends = encoder.encode_documents(documents, cut)
    return np.split(tokens, ends[:-1]) if documents else []


def end_threads(name: str = "rows ahead") -> None:
    """Waits for threads of this name: those for requests that were on their way when a stream ended."""
    for thread in threading.enumerate():
        if thread.name == name:
            thread.join(600)
            assert not thread.is_alive()
