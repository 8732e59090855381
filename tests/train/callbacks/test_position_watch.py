"""Position statistics against their definition in numpy, and collapse where there is some."""

from pathlib import Path

import numpy as np
import pytest
import torch

from model.transformer import Olmo2
from model.weights import initialise, random_weights
from tests.train.conftest import Runs
from tests.train.probe import metrics
from tests.train.tiny import LENGTH, VOCAB_SIZE, tiny
from train.callbacks.position_watch import STATISTICS, row_statistics


def test_statistics_are_sums_over_rows_of_each_heads_mean_std_and_range() -> None:
    z = np.random.default_rng(0).normal(3, [0.1, 1, 10], (5, 64, 3)).astype(np.float32)
    expected = {
        "mean": z.mean(axis=1, dtype=np.float64).sum(axis=0),
        "std": z.std(axis=1, dtype=np.float64).sum(axis=0),
        "range": (z.max(axis=1) - z.min(axis=1)).sum(axis=0),
    }
    measured = row_statistics(torch.from_numpy(z).requires_grad_())
    assert not measured.requires_grad and measured.dtype == torch.float64
    for name, values in zip(STATISTICS, measured, strict=True):
        assert values.tolist() == pytest.approx(expected[name].tolist(), rel=1e-6)


def test_the_std_of_positions_far_from_zero_keeps_its_digits() -> None:
    z = torch.full((1, 1024, 1), 4000.0)
    z[0, ::2] += 0.25
    assert row_statistics(z)[STATISTICS.index("std")].item() == pytest.approx(0.125, rel=1e-6)


def test_a_runs_first_statistics_are_those_of_its_fresh_model_on_the_global_batch(runs: Runs) -> None:
    config = tiny(Path())
    model = Olmo2(config.model, config.positions, config.loss.z_loss_weight)
    initialise(model, random_weights(config.model, config.positions, config.seed), "cpu")
    positions: dict[int, np.ndarray] = {}
    for layer, module in model.learned_positions():
        module.register_forward_hook(lambda _, __, z, layer=layer: positions.update({layer: z.detach().numpy()}))
    rows = np.concatenate([rank["zero2-fp32"].rows[0] for rank in runs.two])
    assert rows.shape == (8, LENGTH) and rows.max() < VOCAB_SIZE
    model(torch.from_numpy(rows))
    first = metrics(runs.root, "zero2-fp32")[0]
    assert list(positions) == [1, 2]
    for layer, z in positions.items():
        expected = {"mean": z.mean(1), "std": z.std(1), "range": np.ptp(z, axis=1)}
        for name, values in expected.items():
            assert first[f"positions/layer_{layer:02d}/{name}"] == pytest.approx(values.mean(0).tolist(), abs=1e-6)
