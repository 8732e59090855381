"""Realised shares follow the weights: in every step across streams, in every stream, and in tokens of real rows."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from data.config import DataConfig
from data.text.mixing import Mixer
from tests.data.reading import read_global

weight_lists = st.lists(st.floats(0.001, 1.0), min_size=1, max_size=18)


def schedule(mixer: Mixer, num_streams: int, num_rows: int, num_sources: int) -> np.ndarray:
    """Whether a row of a stream is of a source: bool `[num_rows, num_streams, num_sources]`."""
    sources = [[mixer.source(stream, row) for stream in range(num_streams)] for row in range(num_rows)]
    return np.eye(num_sources, dtype=bool)[np.array(sources)]


@settings(max_examples=30)
@given(weight_lists, st.sampled_from([1, 8, 24, 64]), st.integers(0, 10))
def test_every_row_across_streams_holds_each_source_to_within_one_row(
    weights: list[float], num_streams: int, seed: int
) -> None:
    shares = np.array(weights) / sum(weights)
    chosen = schedule(Mixer(weights, num_streams, seed), num_streams, 50, len(weights))
    assert np.abs(chosen.sum(axis=1) - shares * num_streams).max() < 1 + 1e-6


@settings(max_examples=30)
@given(weight_lists, st.integers(0, 63))
def test_every_stream_holds_each_source_to_within_a_few_rows_at_all_times(weights: list[float], stream: int) -> None:
    shares = np.array(weights) / sum(weights)
    mixer = Mixer(weights, 64, 42)
    chosen = np.eye(len(weights))[[mixer.source(stream, row) for row in range(4000)]]
    error = chosen.cumsum(axis=0) - shares * np.arange(1, 4001)[:, None]
    assert np.abs(error).max() < 4


def test_a_source_comes_up_in_every_stream_and_not_in_the_same_rows() -> None:
    chosen = schedule(Mixer([0.98, 0.02], 64, 42), 64, 400, 2)[..., 1]
    assert chosen.sum(axis=0).min() >= 5
    assert chosen.sum(axis=1).max() <= 2


def test_token_shares_are_the_weights_whatever_the_length_of_documents(config: DataConfig) -> None:
    batches, _ = read_global(config, 40)
    realised = np.bincount(np.concatenate([batch.sources for batch in batches]), minlength=3) / (40 * 16)
    np.testing.assert_allclose(realised, [0.6, 0.3, 0.1], atol=0.01)


def test_a_source_of_weight_zero_is_left_out(config: DataConfig) -> None:
    config.sources["web"].weight = 0.0
    batches, state = read_global(config, 4)
    assert len(state["streams"]["0"]["cursors"]) == 2
    assert max(batch.sources.max() for batch in batches) == 1
