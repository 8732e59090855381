"""A plan as lines of text, and as plain data."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from data.fetch.remote import is_remote
from launch.plan.advice import Advice
from launch.plan.disk import Disk
from launch.plan.estimate import GIB, Estimate
from train.config import RunConfig, rows_per_rank
from train.engine.memory import element_bytes


def heading(config: RunConfig, needs: Estimate) -> str:
    """Returns what is planned, in one line."""
    rows, times = rows_per_rank(config, needs.cluster.gpus)
    nodes = f" in {needs.cluster.nodes} nodes" if needs.cluster.nodes > 1 else ""
    precision = "bf16" if element_bytes(config, on_gpu=True) == 2 else "fp32"
    again = ", activation checkpointing" if config.model.activation_checkpointing else ""
    return (
        f"{config.name} on {needs.cluster.gpus} x {needs.cluster.device.name}{nodes}: ZeRO {config.engine.zero_stage}, "
        f"{precision}, {config.global_batch_size} rows a step in {times} x {rows} on each GPU{again}"
    )


def memory_lines(config: RunConfig, needs: Estimate) -> list[str]:
    """Returns a line per part of a GPU's memory."""
    part, stage = needs.memory, config.engine.zero_stage
    shared = f"1/{needs.cluster.gpus} on each GPU"
    loss = part.loss >= part.backward + part.buffers
    rows = [
        ("weights", part.weights, f"{shared}, and those gathered at a time" if stage == 3 else "whole"),
        ("gradients", part.gradients, shared if stage >= 2 else "whole"),
        ("optimizer", part.optimizer, f"masters and moments, {shared if stage else 'whole'}"),
        ("activations", part.activations, "of one micro-batch, for the backward pass"),
        ("loss", part.loss, f"logits of {config.model.loss_chunk_rows:,} tokens (model.loss_chunk_rows)"),
        ("backward pass", part.backward, "gradients within a block, and what is computed again"),
        ("buffers", part.buffers, "gradients on their way (engine.reduce_bucket_size)"),
        ("reserve", needs.reserved, "CUDA, NCCL, gaps between tensors"),
    ]
    lines = [f"  {name:<16}{size / GIB:8.2f}  {meaning}" for name, size, meaning in rows]
    largest = "the loss" if loss else "the backward pass and its buffers"
    verdict = "fits" if needs.fits else "DOES NOT FIT"
    total = f"  {'peak':<16}{needs.needed / GIB:8.2f}  of {needs.capacity / GIB:.1f}: {verdict} (largest at {largest})"
    return ["memory of one GPU, GiB", *lines, total]


def speed_lines(needs: Estimate, basis: str) -> list[str]:
    """Returns lines on speed and traffic."""
    efficiency, bandwidth = needs.compute_seconds / needs.step_seconds, needs.cluster.bandwidth / 1e9
    return [
        f"speed ({basis})",
        f"  tokens/s        {needs.tokens_per_second:,.0f}, {needs.tokens_per_second / needs.cluster.gpus:,.0f} a GPU",
        f"  a step          {needs.step_seconds:.2f} s, {efficiency:.0%} of it arithmetic",
        f"  on the wire     {needs.wire_bytes / 1e9:,.1f} GB a GPU and step, at {bandwidth:.0f} GB/s",
        f"  the whole run   {duration(needs.days)}, {needs.gpu_hours:,.0f} GPU-hours, "
        f"{needs.max_steps * needs.tokens_per_step / 1e9:.2f}B tokens",
    ]


def disk_lines(config: RunConfig, files: Disk) -> list[str]:
    """Returns lines on disks."""
    unknown = "not known without a network" if is_remote(config.data.root) else f"not there yet: {config.data.root}"
    data = unknown if files.data is None else f"{files.data / 1e9:,.1f} GB in {config.data.root}"
    cache = f"; cache at most {files.cache / 1e9:,.1f} GB" if files.cache else ""
    return [
        "disk",
        f"  data            {data}{cache}",
        f"  checkpoints     {files.checkpoints / 1e9:,.1f} GB in {config.run_root}: checkpoint.keep="
        f"{config.checkpoint.keep} and the one being written",
        f"  exports         {files.exports / 1e9:,.1f} GB; to continue on other GPUs {files.conversion / 1e9:,.1f} GB",
    ]


def other_sizes(rows: Sequence[Estimate]) -> list[str]:
    """Returns a table of the same run on other numbers of GPUs."""
    lines = ["other numbers of GPUs", "  GPUs   GiB each         tokens/s             time  GPU-hours"]
    for needs in rows:
        size = f"{needs.needed / GIB:.1f}" + ("" if needs.fits else " too much")
        speed, hours = f"{needs.tokens_per_second:,.0f}", f"{needs.gpu_hours:,.0f}"
        lines.append(f"{needs.cluster.gpus:6} {size:>14} {speed:>13} {duration(needs.days):>16} {hours:>10}")
    return lines


def advice_lines(needs: Estimate, advice: Advice | None) -> list[str]:
    """Returns what to change where the run does not fit."""
    if needs.fits:
        return []
    if advice is None:
        return ["no setting of micro-batch, ZeRO stage, checkpointing and GPUs fits: take larger GPUs"]
    better = advice.estimate
    gpus = f" on {better.cluster.gpus} GPUs" if better.cluster.gpus != needs.cluster.gpus else ""
    return [
        f"it fits{gpus} with: {' '.join(advice.arguments) or 'the same settings'} ({better.needed / GIB:.1f} GiB, "
        f"{better.tokens_per_second:,.0f} tokens/s, {duration(better.days)}); the fastest that does"
    ]


def duration(days: float) -> str:
    """Returns days and hours, or hours and minutes, or minutes."""
    minutes = round(days * 1440)
    if minutes >= 2880:
        return f"{minutes // 1440} days {minutes % 1440 // 60} h"
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{max(1, minutes)} min"


def as_data(needs: Estimate, files: Disk, basis: str, advice: Advice | None, command: str) -> dict[str, Any]:
    """Returns a plan as numbers in bytes, seconds and tokens, for scripts."""
    return {
        "device": needs.cluster.device.name,
        "gpus": needs.cluster.gpus,
        "nodes": needs.cluster.nodes,
        "memory": {**asdict(needs.memory), "reserve": needs.reserved, "peak": needs.needed, "capacity": needs.capacity},
        "fits": needs.fits,
        "tokens_per_second": needs.tokens_per_second,
        "step_seconds": needs.step_seconds,
        "wire_bytes_per_step": needs.wire_bytes,
        "days": needs.days,
        "gpu_hours": needs.gpu_hours,
        "basis": basis,
        "disk": asdict(files),
        "changes": None if advice is None else advice.arguments,
        "command": command,
    }
