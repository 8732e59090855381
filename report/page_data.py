"""What the page of a run shows, read from its folder: plain data, bounded in size, from a folder in any state.

All that is required is a metrics.jsonl with a step in it: a run may be young, killed, or of another version.
"""

import os
import time
from pathlib import Path
from typing import Any

import numpy as np

from report.charts import Charts
from report.errors import ReportError
from report.metrics import STEP, MetricTable
from report.packing import evenly_spaced, pack
from report.probes import ProbePositions, probe_files, read_probes
from report.run_folder import RunFiles
from report.schemes import learns_positions
from report.summary import alerts, facts, progress, resumed_steps, status

MAX_PROBE_NUMBERS = 2_000_000  # positions of probe texts, 2.7 bytes each


def read_run(files: RunFiles) -> dict[str, Any]:
    """Returns the data of the page. Raises ReportError if there is no such run, or if it has no metrics yet."""
    if not files.path.is_dir():
        raise ReportError(f"there is no run folder {files.path}: name one such as runs/demo")
    if not files.metrics.is_file():
        raise ReportError(f"{files.path} has no metrics.jsonl: it is not a run folder, or the run has not started")
    rows = files.read_metrics()
    if not rows:
        raise ReportError(f"{files.metrics} holds no complete line: wait for the first step, or start the run again")
    config, events, last = files.read_config(), files.read_events(), rows[-1]
    charts = Charts(rows, MetricTable.of(config))
    return {
        "name": os.fsencode(files.path.resolve().name).decode(errors="replace"),  # it may not be UTF-8
        "written": time.strftime("%Y-%m-%d %H:%M"),
        "status": status(files, events, last[STEP], config.get("max_steps")),
        "progress": progress(last[STEP], config.get("max_steps")),
        "facts": facts(config, events, last),
        "events": alerts(events),
        "marks": resumed_steps(events),
        "learns": learns_positions(config),
        "main": charts.main(),
        "evaluation": charts.evaluation(),
        "heads": charts.heads(),
        "layers": charts.layers(),
        "model": charts.positions(),
        "other": charts.other(),
        "unknown_lists": charts.unknown_lists(),
        "probes": probe_data(files.probes),
    }


def probe_data(folder: Path) -> dict[str, Any] | None:
    """Returns positions of the probe texts, [S, L, H, T] packed, at as many steps as fit; None if there are none."""
    in_order = list(probe_files(folder).items())
    newest = next((found for found in (read_probes(*file) for file in reversed(in_order)) if found), None)
    if newest is None:
        return None
    numbers = sum(z.size for z in newest.z.values())
    chosen = evenly_spaced(in_order, max(2, MAX_PROBE_NUMBERS // max(1, numbers)))
    read = [found for found in (read_probes(*file) for file in chosen) if found and _is_like(found, newest)]
    return {
        "steps": [found.step for found in read],
        "layers": newest.layers,
        "texts": [
            {"name": name, "pieces": pieces, **pack(np.stack([found.z[name] for found in read]))}
            for name, pieces in newest.pieces.items()
        ],
    }


def _is_like(one: ProbePositions, other: ProbePositions) -> bool:
    shapes = [{name: z.shape for name, z in probe.z.items()} for probe in (one, other)]
    return one.layers == other.layers and one.pieces == other.pieces and shapes[0] == shapes[1]
