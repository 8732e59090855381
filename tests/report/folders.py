"""Run folders made by hand, for what no tiny run has: many steps, hostile strings, evaluations, no positions."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from report.metrics import bucket_loss, source_loss, source_perplexity
from report.probes import ProbeText, write_probes
from report.run_folder import RunFiles

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


def evaluated(step: int) -> dict[str, Any]:
    """What an evaluation adds to the row of a step: two sources, three buckets of the row."""
    row: dict[str, Any] = {"eval/loss": 2 + 1 / step, "eval/perplexity": 10.0}
    for source, loss in (("web", 3.0), ("code", 1.0)):
        row |= {source_loss(source): loss + 1 / step, source_perplexity(source): 2.7**loss}
    return row | {bucket_loss(start, start + 8): 3 - start / 8 + 1 / step for start in (0, 8, 16)}


def make_run(path: Path, steps: range, *, learned: bool = True, events: list[dict[str, Any]] | None = None) -> RunFiles:
    """A run folder with these steps and events; no config, as if that were lost."""
    path.mkdir(parents=True)
    folder = RunFiles(path)
    folder.metrics.write_text("".join(json.dumps(metrics(step, learned=learned)) + "\n" for step in steps))
    folder.events.write_text("".join(json.dumps(event) + "\n" for event in events or []))
    return folder


def add_probes(folder: RunFiles, steps: list[int], pieces: list[str]) -> None:
    """Positions of one text of these pieces."""
    text = ProbeText("prose", np.arange(len(pieces)), pieces)
    for step in steps:
        z = np.random.default_rng(step).normal(size=(len(LAYERS), HEADS, len(pieces)))
        write_probes(folder.probe(step), LAYERS, [text], {"prose": z})
