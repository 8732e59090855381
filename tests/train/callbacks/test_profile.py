"""Chosen steps are profiled, and no other; the trace can be read, and the heaviest operators are named."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from tests.train.tiny import tiny
from train.callbacks.build import build_callbacks
from train.callbacks.callback import TrainerInterface
from train.callbacks.config import ProfileConfig
from train.callbacks.profile import Profiler, heaviest_table
from train.errors import Stop, StopReason, TrainError


def steps(profiler: Profiler, folder: Path, numbers: range) -> None:
    """Runs the hooks of some steps, each of which multiplies and adds."""
    engine = SimpleNamespace(device=torch.device("cpu"))
    a = torch.randn(200, 200)
    for step in numbers:
        fake: Any = SimpleNamespace(step=step, engine=engine, folder=SimpleNamespace(profile=folder))
        trainer = cast(TrainerInterface, fake)
        profiler.on_step_start(trainer)
        for _ in range(step):
            a @ a + 1
        profiler.on_update(trainer)


def test_a_chosen_step_has_a_trace_and_its_heaviest_operators_are_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    steps(Profiler(ProfileConfig([3])), tmp_path / "profile", range(1, 5))
    [path] = (tmp_path / "profile").iterdir()
    assert path.name == "step-0000003-trace.json"
    names = [event.get("name") for event in json.loads(path.read_text())["traceEvents"]]
    assert names.count("aten::mm") == 3
    heading, *lines = capsys.readouterr().out.splitlines()
    assert heading.endswith("heaviest operators of the step:") and 2 <= len(lines) <= 10
    [product] = [line for line in lines if line.endswith("  aten::mm")]
    assert "  3 x  " in product and "%" in product


def test_a_full_disk_costs_the_trace_and_not_the_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "profile").write_text("a file where the folder would be")
    steps(Profiler(ProfileConfig([1])), tmp_path / "profile", range(1, 2))
    [record] = caplog.records
    assert "the profile of step 1 could not be written" in record.getMessage()


def test_of_a_gpu_kernels_count_and_not_the_operators_that_launch_them() -> None:
    cuda, cpu = torch.autograd.DeviceType.CUDA, torch.autograd.DeviceType.CPU

    def row(name: str, device: Any, on_device: float) -> Any:
        return SimpleNamespace(
            key=name, device_type=device, self_device_time_total=on_device, self_cpu_time_total=9e9, count=2
        )

    rows = [row("aten::mm", cpu, 3000.0), row("nvjet_gemm", cuda, 3000.0), row("rms_norm_kernel", cuda, 1000.0)]
    recorded = SimpleNamespace(key_averages=lambda: rows)
    assert heaviest_table(recorded, on_gpu=True, number=10) == [
        ("nvjet_gemm", 3.0, 0.75, 2),
        ("rms_norm_kernel", 1.0, 0.25, 2),
    ]


def test_a_run_profiles_only_if_it_is_asked_to(tmp_path: Path) -> None:
    assert not any(isinstance(callback, Profiler) for callback in build_callbacks(tiny(tmp_path)))
    config = tiny(tmp_path, profile__steps=[6])
    config.validate()
    assert isinstance(build_callbacks(config)[0], Profiler)
    with pytest.raises(TrainError, match=r"profile\.steps has 0: steps count from 1"):
        ProfileConfig([5, 0]).validate()


def test_a_step_that_is_cut_off_leaves_no_profiler_running(tmp_path: Path) -> None:
    profiler = Profiler(ProfileConfig([1]))
    fake: Any = SimpleNamespace(step=1, engine=SimpleNamespace(device=torch.device("cpu")))
    profiler.on_step_start(cast(TrainerInterface, fake))
    profiler.on_stop(cast(TrainerInterface, fake), Stop(StopReason.signal))
    steps(Profiler(ProfileConfig([1])), tmp_path / "profile", range(1, 2))
    assert list((tmp_path / "profile").iterdir())
