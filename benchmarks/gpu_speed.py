"""The part `speed` of `python -m benchmarks.gpu`: tokens/s of RoPE and RePo, steps alternating, with peak memory."""

import statistics
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu_bench import SETTINGS, Bench, Setting, step
from launch.plan.measured import Measurement, save
from model.accounting import flops_per_token, num_parameters
from model.config import PositionsConfig
from train.devices import bf16_peak
from train.engine.memory import memory

GOOD, GOAL = 58_000, 63_500  # tokens/s of the 1B model with RePo on one H200
MOST_OVERHEAD = 0.015  # of RePo over RoPE


def speed(bench: Bench) -> None:
    """Measures whole steps with RoPE and with RePo, alternating, in each setting."""
    name = torch.cuda.get_device_name() if bench.is_cuda else "CPU"
    peak, measured = bf16_peak(name), []
    target = f"{GOOD:,} good, {GOAL:,} goal on an H200"
    for number, setting in enumerate(SETTINGS[bench.size]):
        try:
            seen = alternating(bench, setting)
        except torch.OutOfMemoryError:
            bench.notes.row(setting.text, "does not fit")
            bench.free()
            continue
        config = bench.config(setting, "repo", 1)
        rates: dict[str, float] = {}
        for scheme, times in seen.items():
            rates[scheme] = times["tokens"] / statistics.median(times["seconds"])
            flops = [
                flops_per_token(config.model, PositionsConfig(scheme), config.sequence_length, causal=causal)
                for causal in (False, True)
            ]
            mfu = [rates[scheme] * of / peak for of in flops] if peak else []
            said = f"{rates[scheme]:,.0f} tokens/s" + (f", MFU {mfu[0]:.1%} (causal {mfu[1]:.1%})" if mfu else "")
            is_main = scheme == "repo" and number == 0 and "H200" in name
            holds = rates[scheme] >= GOOD if is_main else None
            bench.notes.row(f"{setting.text}, {scheme}", said, target if is_main else "", holds)
            phases = {key: statistics.median(times[key]) for key in ("forward", "backward", "update")}
            whole = statistics.median(times["wall"])
            parts = ", ".join(f"{key} {value / whole:.0%}" for key, value in phases.items())
            bench.notes.row(f"{setting.text}, {scheme}: phases", parts)
            if mfu:
                measured.append(
                    Measurement(
                        1,
                        num_parameters(config.model, PositionsConfig(scheme)),
                        scheme,
                        config.sequence_length,
                        setting.rows,
                        setting.zero_stage,
                        False,
                        rates[scheme],
                        mfu[0],
                        times["peak"][0],
                        times["planned"][0],
                    )
                )
        overhead = rates["rope"] / rates["repo"] - 1
        is_target = setting.compiled and bench.is_cuda
        bench.notes.row(
            f"{setting.text}: RePo over RoPE",
            f"{overhead:+.1%}",
            "at most 1.5 %" if is_target else "",
            overhead <= MOST_OVERHEAD if is_target else None,
        )
        bench.notes.data(setting.text, seen)
        if measured:
            stem = name.lower().replace(" ", "-")
            path = Path(sys.argv[3]).with_name(f"throughput-{stem}.json")
            save(path, name, datetime.now(UTC).date().isoformat(), {"torch": torch.__version__}, measured)


def alternating(bench: Bench, setting: Setting) -> dict[str, dict[str, Any]]:
    """Returns the seconds of steps by scheme. Both engines live at once where they fit, and steps alternate.

    Where they do not fit, each is built, timed and closed in turn, twice.
    """
    micro_batches, steps = (2, 2) if bench.is_tiny else (8, 2)
    configs = {scheme: bench.config(setting, scheme, micro_batches) for scheme in ("rope", "repo")}
    plans = {scheme: memory(config, 1, on_gpu=True) for scheme, config in configs.items()}
    needed = sum(plan.states for plan in plans.values()) + max(plan.peak - plan.states for plan in plans.values())
    groups: list[tuple[str, ...]] = [("rope", "repo")]
    if bench.is_cuda and needed > 0.9 * torch.cuda.mem_get_info()[0]:
        groups = [("rope",), ("repo",)] * 2
    seen: dict[str, dict[str, Any]] = {
        scheme: {key: [] for key in ("seconds", "wall", "forward", "backward", "update", "peak", "planned")}
        for scheme in configs
    }
    for group in groups:
        engines = {scheme: bench.engine(configs[scheme]) for scheme in group}
        try:
            for number in range(steps + 1):
                for scheme, engine in engines.items():
                    config, tokens, times = configs[scheme], bench.tokens(configs[scheme]), seen[scheme]
                    times["tokens"] = tokens.numel()
                    start, began = bench.clock(), time.perf_counter()
                    step(engine, config, tokens, 1e-6)
                    passed = bench.clock() - start
                    if number:  # the first one compiles and allocates
                        times["seconds"].append(passed)
                        times["wall"].append(time.perf_counter() - began)
                        for phase in ("forward", "backward", "update"):
                            times[phase].append(getattr(engine, f"{phase}_seconds"))
        finally:
            others = sum(plans[scheme].states for scheme in group[1:])  # roughly: the two differ by RePo's maps
            for scheme, engine in engines.items():
                if bench.is_cuda:
                    seen[scheme]["peak"].append((torch.cuda.max_memory_allocated() - others) / 2**30)
                seen[scheme]["planned"].append(plans[scheme].peak / 2**30)
                engine.close()
            engines.clear()
            bench.free()
            if bench.is_cuda:
                torch.cuda.reset_peak_memory_stats()
    return seen
