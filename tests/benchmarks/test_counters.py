"""A training step takes no more operators, bytes and waits than the committed table says."""

import pytest
import torch

from benchmarks.counters import LENGTH, ROWS, Operators, committed, count_parts, gemm_flops, model_counters
from model.activations import activations
from model.config import Kernel, ModelConfig, PositionsConfig

TABLES = 8 * LENGTH + 64 * 12  # bytes of a layer that are of no row: 0, 1, 2, ... of RoPE, and the frequencies


def test_counters_of_the_1b_model_are_not_more_than_the_committed_ones() -> None:
    limits = committed()
    for name, value in model_counters().items():
        advice = "if that is meant, run `python -m benchmarks.counters --write`"
        assert value <= limits[name][1], f"{name} was {limits[name][1]:g} and is {value:g}: {advice}"


def test_flops_of_the_matrix_products_are_the_closed_form() -> None:
    counted, closed_form = gemm_flops()
    assert counted == closed_form


@pytest.mark.parametrize("kernel", [Kernel.torch, Kernel.triton])
@pytest.mark.parametrize(("part", "positions"), [("RoPE block", "rope"), ("RePo block", "repo")])
def test_a_block_saves_the_bytes_that_plans_reckon_with(part: str, positions: str, kernel: Kernel) -> None:
    def kept(num_layers: int) -> int:
        scheme = PositionsConfig(positions, start_layer=0 if positions == "repo" else None)
        config = ModelConfig(num_layers=num_layers)
        return activations(config, scheme, rows=ROWS, length=LENGTH, element=2, on_gpu=True).kept

    assert 0 <= count_parts(kernel)[part].saved - (kept(2) - kept(1)) <= TABLES


def test_a_wait_for_the_device_is_seen() -> None:
    x = torch.arange(4)
    with Operators() as operators:
        x.sum().item()
        x.nonzero()
        x[x > 1]
        x[torch.tensor([0, 2])] + 1
    assert operators.counts.waits == ["aten._local_scalar_dense", "aten.nonzero", "aten.index"]
    assert operators.counts.operators >= 4 and operators.counts.bytes_moved > 0
