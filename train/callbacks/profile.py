"""Profiles chosen steps (`profile.steps`): a trace, the heaviest operators on the console, and memory on a GPU.

Files are in runs/NAME/profile/. `step-NNNNNNN-trace.json` opens in https://ui.perfetto.dev or chrome://tracing.
`step-NNNNNNN-memory.pickle`, on a GPU, opens in https://pytorch.org/memory_viz: every allocation of the step with its
stack. Only the main rank is profiled. A profiled step is slower, and its throughput/* says so; losses do not change.
"""

import logging
import os
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from train.callbacks.callback import Callback, TrainerInterface
from train.callbacks.config import ProfileConfig
from train.callbacks.console import Screen
from train.errors import Stop

logger = logging.getLogger(__name__)

MAX_ALLOCATIONS = 200_000  # that a snapshot of memory holds, at most
NAME_WIDTH = 60  # characters of a kernel's name on the console


class Profiler(Callback):
    """Records the steps of `config.steps` from their start to the end of their update."""

    main_rank_only = True

    def __init__(self, config: ProfileConfig) -> None:
        self._config = config
        self._profile: profile | None = None
        os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the library below torch's profiler logs each start and stop

    def on_step_start(self, trainer: TrainerInterface) -> None:
        if trainer.step not in self._config.steps:
            return
        activities = [ProfilerActivity.CPU]
        if trainer.engine.device.type == "cuda":
            activities.append(ProfilerActivity.CUDA)
            torch.cuda.memory._record_memory_history(max_entries=MAX_ALLOCATIONS)
        self._profile = profile(activities=activities)
        self._profile.start()

    def on_update(self, trainer: TrainerInterface) -> None:
        if self._profile is None:
            return
        recorded, self._profile = self._profile, None
        if trainer.engine.device.type == "cuda":
            torch.cuda.synchronize()  # this step is measured, so it may wait: kernels belong to it to the last
        recorded.stop()
        folder = trainer.folder.profile
        stem = f"step-{trainer.step:07d}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            recorded.export_chrome_trace(str(folder / f"{stem}-trace.json"))
            if trainer.engine.device.type == "cuda":
                torch.cuda.memory._dump_snapshot(str(folder / f"{stem}-memory.pickle"))
        except (OSError, RuntimeError) as error:
            logger.warning("the profile of step %d could not be written (%s): training continues", trainer.step, error)
        _stop_memory(trainer)
        for line in heaviest(recorded, on_gpu=trainer.engine.device.type == "cuda"):
            Screen(highlight=False, soft_wrap=True).print(line, markup=False)

    def on_stop(self, trainer: TrainerInterface, stop: Stop) -> None:
        if self._profile is not None:  # the step was cut off
            self._profile.stop()
            self._profile = None
            _stop_memory(trainer)


def _stop_memory(trainer: TrainerInterface) -> None:
    if trainer.engine.device.type == "cuda":
        torch.cuda.memory._record_memory_history(enabled=None)


def heaviest(recorded: Any, *, on_gpu: bool, number: int = 10) -> list[str]:
    """Returns a heading and a line per operator with the most time of its own: on a GPU of kernels, else of the host.

    `recorded` is a stopped torch.profiler.profile.
    """
    table = heaviest_table(recorded, on_gpu=on_gpu, number=number)
    what = "kernels" if on_gpu else "operators"
    lines = [f"the {len(table)} heaviest {what} of the step:"]
    for name, milliseconds, share, calls in table:
        lines.append(f"  {milliseconds:9.1f} ms  {share:5.1%}  {calls:6d} x  {name[:NAME_WIDTH]}")
    return lines


def heaviest_table(recorded: Any, *, on_gpu: bool, number: int) -> list[tuple[str, float, float, int]]:
    """Returns (name, milliseconds, share of all, calls) of those with the most time of their own, in falling order."""
    rows = recorded.key_averages()
    if on_gpu:  # kernels and copies themselves, not the operators that launch them, which have the same time
        rows = [row for row in rows if row.device_type == torch.autograd.DeviceType.CUDA]
    times = {row.key: (row.self_device_time_total if on_gpu else row.self_cpu_time_total, row.count) for row in rows}
    total = sum(time for time, _ in times.values()) or 1.0
    largest = sorted(times.items(), key=lambda item: -item[1][0])[:number]
    return [(name, time / 1000, time / total, int(count)) for name, (time, count) in largest]
