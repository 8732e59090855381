"""Run folders made by hand, for what no tiny run does: long runs, hostile strings, runs without positions."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from train.run_folder import RunFolder
from train.watch.probes import ProbeText, write_probes

LAYERS, HEADS = (5, 6, 7), 4


def metrics(step: int, *, learned: bool = True) -> dict[str, Any]:
    """A row of metrics.jsonl, of numbers that depend on the step."""
    row: dict[str, Any] = {"step": step, "tokens": 1024 * step, "train/ce_loss": 3 + 1 / step, "optim/lr": 1e-3}
    row |= {"optim/grad_norm": 1.0, "throughput/tokens_per_second": 5e4, "optim/skipped": 0}
    for layer in LAYERS if learned else ():
        row[f"positions/layer_{layer:02d}/std"] = [step * (layer + head / 10) for head in range(HEADS)]
        row[f"positions/layer_{layer:02d}/mean"] = [head - 1.5 for head in range(HEADS)]
        row[f"positions/layer_{layer:02d}/gate_norm"] = float(step + layer)
    return row


def make_run(
    path: Path, steps: range, *, learned: bool = True, events: list[dict[str, Any]] | None = None
) -> RunFolder:
    """A run folder with these steps and events; no config, as if that were lost."""
    path.mkdir(parents=True)
    folder = RunFolder(path)
    folder.metrics.write_text("".join(json.dumps(metrics(step, learned=learned)) + "\n" for step in steps))
    folder.events.write_text("".join(json.dumps(event) + "\n" for event in events or []))
    return folder


def add_probes(folder: RunFolder, steps: list[int], pieces: list[str]) -> None:
    """Positions of one text of these pieces."""
    text = ProbeText("prose", np.arange(len(pieces)), pieces)
    for step in steps:
        z = np.random.default_rng(step).normal(size=(len(LAYERS), HEADS, len(pieces)))
        write_probes(folder.probe(step), LAYERS, [text], {"prose": z})
