"""Devices by name, and tokens per second by the clock."""

from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
import torch

from common.json_lines import read_json_lines
from model.accounting import flops_per_token
from tests.train.conftest import NUM_STEPS, Runs
from tests.train.tiny import LENGTH, tiny
from train.callbacks.callback import TrainerInterface
from train.callbacks.throughput import Throughput
from train.devices import bf16_peak
from train.engine.memory import memory


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H200", 989.5e12),
        ("NVIDIA H100 80GB HBM3", 989.5e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H100 NVL", 835e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA GH200 480GB", 989.5e12),
        ("NVIDIA H20", 148e12),
        ("NVIDIA L4", 121e12),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA A10G", 70e12),
        ("NVIDIA GeForce RTX 4090", 165.2e12),
        ("h100-pcie", 756e12),
        ("NVIDIA RTX A4000", None),
        ("NVIDIA GeForce RTX 3060", None),
        ("cpu", None),
    ],
)
def test_a_device_is_known_by_its_own_name_or_not_at_all(name: str, peak: float | None) -> None:
    assert bf16_peak(name) == peak


def test_throughput_is_the_global_batch_over_the_step_and_a_cpu_has_no_mfu(stages: Runs) -> None:
    rows = read_json_lines(stages.folder("zero2-fp32").metrics)
    assert len(rows) == NUM_STEPS
    for row in rows:
        assert row["throughput/tokens_per_second"] == pytest.approx(8 * LENGTH / row["throughput/step_seconds"])
        assert 0 <= row["throughput/data_seconds"] < row["throughput/step_seconds"]
        parts = [row[f"throughput/{phase}_seconds"] for phase in ("data", "forward", "backward", "update", "other")]
        assert min(parts) >= 0 and min(parts[1:4]) > 0
        assert sum(parts) == pytest.approx(row["throughput/step_seconds"])
        assert not {"throughput/mfu", "throughput/mfu_causal", "memory/peak_gib"} & row.keys()


@pytest.mark.parametrize(("name", "num_warnings"), [("NVIDIA H200", 0), ("Accelerator 9000", 1)])
def test_an_unknown_gpu_is_reported_once_and_never_guessed(
    name: str, num_warnings: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    phases = {"forward_seconds": 0.1, "backward_seconds": 0.2, "update_seconds": 0.05}
    engine = SimpleNamespace(device=torch.device("cuda", 0), **phases)
    recorded: dict[str, float] = {}
    trainers = [
        SimpleNamespace(
            engine=engine, ranks=SimpleNamespace(is_main=is_main, world_size=2), record=recorded.__setitem__
        )
        for is_main in (True, False)
    ]
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 3 * 2**30)
    config = tiny(Path())
    for trainer in trainers:
        trainer.step_seconds, trainer.data_seconds = 0.5, 0.1
        throughput = Throughput(
            8 * LENGTH,
            partial(flops_per_token, config.model, config.positions, LENGTH),
            partial(memory, config, on_gpu=True),
        )
        throughput.on_start(cast(TrainerInterface, trainer))
        throughput.on_update(cast(TrainerInterface, trainer))
    assert len(caplog.records) == num_warnings
    assert recorded["memory/peak_gib"] == 3
    assert recorded["throughput/other_seconds"] == pytest.approx(0.5 - 0.1 - 0.1 - 0.2 - 0.05)
    assert recorded["memory/planned_gib"] == memory(config, 2, on_gpu=True).peak / 2**30
    rate = 8 * LENGTH / 0.5
    if num_warnings:
        assert "throughput/mfu" not in recorded
    else:
        flops = flops_per_token(config.model, config.positions, LENGTH, causal=False)
        assert recorded["throughput/mfu"] == pytest.approx(rate * flops / (2 * 989.5e12))
        assert recorded["throughput/mfu_causal"] < recorded["throughput/mfu"]
