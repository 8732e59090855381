"""Every statistic against its plain definition in NumPy, sequence by sequence and head by head."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.attention import Documents
from model.loss import IGNORED
from report.metrics import STATISTICS
from tests.train.watch.definitions import plain, radians
from train.watch.statistics import head_values, sequences_of, weighted_sums

NUM_PAIRS = 32
RADIANS = radians(NUM_PAIRS)


def assert_plain(sums: torch.Tensor, sequences: list[tuple[np.ndarray, float]]) -> None:
    """That `weighted_sums` are those of the plain definition, over (z [n, H], weight)."""
    assert sums.dtype == torch.float64
    assert sums[-1].tolist() == pytest.approx([sum(weight for _, weight in sequences)] * sums.shape[1])
    for head in range(sums.shape[1]):
        values = [(plain(z_th, head, NUM_PAIRS), weight) for z_th, weight in sequences]
        for name, row in zip(STATISTICS, sums, strict=False):
            expected = sum(value[name] * weight for value, weight in values)
            assert float(row[head]) == pytest.approx(expected, rel=1e-9, abs=1e-12), (name, head)


def measured(z_bth: np.ndarray) -> torch.Tensor:
    labels = torch.zeros(z_bth.shape[:2], dtype=torch.int64)
    z = torch.from_numpy(z_bth.astype(np.float32)).requires_grad_()
    return weighted_sums(z, sequences_of(labels, None, filtered_rows=False), torch.from_numpy(RADIANS))


@pytest.mark.parametrize("length", [16, 17, 48, 256])
@pytest.mark.parametrize("scale", [1e-3, 0.3, 5.0, 1e4])
def test_every_statistic_is_its_definition_on_random_positions(length: int, scale: float) -> None:
    z = np.random.default_rng(length).normal(scale, scale, (3, length, 4)).astype(np.float32)
    assert_plain(measured(z), [(row, length) for row in z])


CONSTRUCTED: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "the index": lambda t: t,
    "the index backwards": lambda t: -t,
    "one value": lambda t: np.full_like(t, 0.7),
    "zero": np.zeros_like,
    "two plateaus": lambda t: np.where(t < 30, -2.0, 3.0),
    "a saw of 16": lambda t: t % 16,
    "a far away zigzag": lambda t: 4000 + t % 2 / 4,
    "few values, many ties": lambda t: np.floor(t / 7) % 3,
    "one outlier": lambda t: np.where(t == 50, 1000.0, 0.0),
}


def test_every_statistic_is_its_definition_on_constructed_positions() -> None:
    t = np.arange(100.0)
    z = np.stack([make(t) for make in CONSTRUCTED.values()], axis=1)[None].astype(np.float32)
    assert_plain(measured(z), [(z[0], 100)])


def test_what_constructed_positions_are_known_to_be() -> None:
    t = np.arange(96.0)
    z = torch.from_numpy(np.stack([t, np.full(96, np.float32(0.7)), np.where(t < 48, -2.0, 3.0)])[None])
    values = head_values(z, torch.tensor([96.0]).double(), torch.from_numpy(RADIANS))
    rope, collapsed, plateaus = ({name: float(value[0, head]) for name, value in values.items()} for head in range(3))
    assert rope["rank_correlation"] == pytest.approx(1) and rope["monotone_share"] == rope["forward_share"] == 1
    assert rope["range"] == 95 and rope["step_mean"] == 1 and rope["step_std"] == 0
    assert collapsed["std"] == collapsed["range"] == collapsed["resolution"] == collapsed["rank_correlation"] == 0
    assert collapsed["constant_share"] == 1 and collapsed["similarity"] == 0
    assert plateaus["constant_share"] == 1 and plateaus["resolution"] > 0 and plateaus["negative_share"] == 0.5


@settings(max_examples=40)
@given(st.data())
def test_every_statistic_is_its_definition_for_any_documents(data: st.DataObject) -> None:
    num_rows, length, num_heads = (data.draw(st.integers(low, high)) for low, high in ((1, 3), (16, 90), (1, 3)))
    cuts = [[0, *sorted(data.draw(st.sets(st.integers(1, length - 1), max_size=6))), length] for _ in range(num_rows)]
    kept = np.array(data.draw(st.lists(st.booleans(), min_size=num_rows, max_size=num_rows)))
    levels = data.draw(st.sampled_from([2, 5, 1000]))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    z = (rng.integers(levels, size=(num_rows, length, num_heads)) - 1).astype(np.float32) / 8
    labels = torch.full((num_rows, length), IGNORED)
    labels[torch.from_numpy(kept), :-1] = 3
    documents = Documents.from_boundaries(cuts)
    for filtered_rows in (False, True):
        groups = sequences_of(labels, documents, filtered_rows)
        sums = weighted_sums(torch.from_numpy(z), groups, torch.from_numpy(RADIANS))
        pieces = [
            (z[row, start:stop], float(stop - start) * (kept[row] or filtered_rows))
            for row in range(num_rows)
            for start, stop in zip(cuts[row], cuts[row][1:], strict=False)
            if stop - start >= 16
        ]
        assert_plain(sums, pieces)


def test_filtered_rows_weigh_nothing_unless_they_are_to() -> None:
    labels = torch.zeros(2, 32, dtype=torch.int64)
    labels[1] = IGNORED
    for filtered_rows, weights in ((False, [32, 0]), (True, [32, 32])):
        [group] = sequences_of(labels, None, filtered_rows)
        assert group.weights_s.tolist() == weights


def test_a_thousand_short_documents_beside_a_long_one_are_not_padded_to_its_length() -> None:
    cuts = [[0, 4096], list(range(0, 4097, 16)), list(range(4097))]
    groups = sequences_of(torch.zeros(3, 4096, dtype=torch.int64), Documents.from_boundaries(cuts), False)
    assert sum(len(group.lengths_s) for group in groups) == 1 + 256  # documents of one token are none
    assert all(group.tokens_sl is not None and group.tokens_sl.numel() <= 2 * 3 * 4096 for group in groups)


def test_rows_shorter_than_a_chunk_are_no_sequences() -> None:
    assert sequences_of(torch.zeros(2, 15, dtype=torch.int64), None, True) == []
