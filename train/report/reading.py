"""What the page shows, read from a run folder: plain data, bounded, whatever state the folder is in.

Nothing is asked of the files but that metrics.jsonl holds steps: a run may be young, killed, or of another version. The
page is driven by the names that the metrics have, so that a new statistic appears by itself.
"""

import os
import re
import time
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from common.json_lines import read_json_lines
from train.errors import StopReason, TrainError
from train.report.packing import curve, evenly, pack, short
from train.run_folder import RunFolder
from train.watch.names import SIGNALS, STATISTICS, Statistic
from train.watch.probes import ProbePositions, probe_files, read_probes

MAIN_CHARTS = {
    "train/ce_loss": "Loss",
    "optim/lr": "Learning rate",
    "optim/grad_norm": "Gradient norm",
    "throughput/tokens_per_second": "Tokens per second",
}
MAX_READINGS, MAX_HEAD_NUMBERS = 80, 500_000  # of the heat maps, 8 bytes each
MAX_PROBE_NUMBERS = 2_000_000  # positions of probe texts, 2.7 bytes each
MAX_EVENTS = 200
LARGEST = 1e300  # number that is shown; JSON also has integers that no float can hold
SILENCE = 600  # seconds without a line after which a run that has not stopped is called silent
LAYER_METRIC = re.compile(r"positions/layer_(\d+)/(.+)")


def read_run(folder: RunFolder) -> dict[str, Any]:
    """The data of the page. Raises TrainError if there is no such run, or nothing in it yet."""
    if not folder.path.is_dir():
        raise TrainError(f"there is no run folder {folder.path}: name one such as runs/demo")
    if not folder.metrics.is_file():
        raise TrainError(f"{folder.path} has no metrics.jsonl: it is no run folder, or the run has not begun")
    rows = read_rows(folder.metrics)
    if not rows:
        raise TrainError(f"{folder.metrics} holds no whole line yet: wait for the first step, or start the run again")
    config, events = read_config(folder.config), read_json_lines(folder.events)
    events = [event for event in events if isinstance(event, dict)]
    last = rows[-1]
    return {
        "name": os.fsencode(folder.path.resolve().name).decode(errors="replace"),  # it may not be UTF-8
        "written": time.strftime("%Y-%m-%d %H:%M"),
        "status": status(folder, events, last["step"], config.get("max_steps")),
        "progress": progress(last["step"], config.get("max_steps")),
        "facts": facts(config, events, last),
        "main": charts(rows, MAIN_CHARTS),
        "other": charts(rows, other_names(rows)),
        "events": alerts(events),
        "marks": [event["step"] for event in events if event.get("event") == "resume" and is_number(event.get("step"))],
        "learns": learns(config),
        "heads": head_statistics(rows),
        "layers": layer_series(rows),
        "model": charts(rows, model_names(rows)),
        "probes": probes(folder.probes),
    }


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Lines of metrics.jsonl that hold a step, each step once; what cannot be read is left out."""
    by_step = {
        row["step"]: row
        for row in read_json_lines(path)
        if isinstance(row, dict) and is_number(row.get("step")) and isinstance(row["step"], int) and row["step"] < 2**53
    }
    return [by_step[step] for step in sorted(by_step)]


def read_config(path: Path) -> dict[str, Any]:
    """config.yaml as it is; empty if it is not there, or no mapping."""
    try:
        config = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError, UnicodeDecodeError):
        return {}
    return config if isinstance(config, dict) else {}


def is_number(value: Any) -> bool:
    """Whether JSON held a finite number, of a size that can still be rounded."""
    return isinstance(value, int | float) and not isinstance(value, bool) and -LARGEST <= value <= LARGEST


def names(rows: list[dict[str, Any]]) -> list[str]:
    """All metric names, in the order of their first appearance."""
    return list(dict.fromkeys(name for row in rows for name in row))


def other_names(rows: list[dict[str, Any]]) -> dict[str, str]:
    """Scalars that are neither on the front nor about positions."""
    return {
        name: name
        for name in names(rows)
        if name not in MAIN_CHARTS and name not in ("step", "tokens") and not name.startswith("positions/")
    }


def model_names(rows: list[dict[str, Any]]) -> dict[str, str]:
    """Figures of the positions of the whole model, with their labels."""
    found = [name for name in names(rows) if re.fullmatch("positions/[^/]+", name)]
    return {name: describe(name.partition("/")[2])["label"] for name in found}


def charts(rows: list[dict[str, Any]], titles: dict[str, str]) -> list[dict[str, Any]]:
    """A curve over steps for each named metric that is a number somewhere."""
    found = []
    for name, title in titles.items():
        points = [(row["step"], row[name]) for row in rows if is_number(row.get(name))]
        if points:
            found.append({"name": name, "title": title, **curve(*zip(*points, strict=True))})
    return found


def status(folder: RunFolder, events: list[dict[str, Any]], step: int, max_steps: Any) -> dict[str, str]:
    """Whether the run goes on, has ended, or has fallen silent: `state` and a few words."""
    of = f" of {max_steps}" if is_number(max_steps) else ""
    ends = [event for event in events if event.get("event") in ("start", "resume", "stop")]
    last = ends[-1] if ends else {}
    if last.get("event") == "stop":
        if last.get("reason") == StopReason.finished.word:
            return {"state": "finished", "text": f"finished after step {step}"}
        return {
            "state": "stopped",
            "text": f"stopped after step {step}{of}: {last.get('detail') or last.get('reason')}",
        }
    age = time.time() - folder.metrics.stat().st_mtime
    if age > SILENCE:
        return {"state": "silent", "text": f"no sign of life for {_duration(age)}, after step {step}{of}"}
    return {"state": "running", "text": f"running, step {step}{of}"}


def progress(step: int, max_steps: Any) -> float:
    """Between 0 and 1."""
    return min(1.0, step / max_steps) if is_number(max_steps) and max_steps > 0 else 0.0


def facts(config: dict[str, Any], events: list[dict[str, Any]], last: dict[str, Any]) -> list[list[str]]:
    """What a person wants to know first, as (label, value)."""
    model, positions = config.get("model"), _get(config, "positions", "scheme")
    starts = [event for event in events if event.get("event") in ("start", "resume")]
    start = starts[-1] if starts else {}
    first_layer = _get(config, "positions", "start_layer")
    batch, length = config.get("global_batch_size"), config.get("sequence_length")
    found: dict[str, Any] = {
        "Tokens read": _count(last.get("tokens")),
        "Batch": batch and length and f"{batch} x {length} tokens",
        "Model": model and f"{_get(config, 'model', 'num_layers')} layers, {_get(config, 'model', 'hidden_size')} wide",
        "Positions": positions and (f"{positions} from layer {first_layer}" if first_layer is not None else positions),
        "Peak learning rate": _get(config, "optimizer", "lr"),
        "Data": _get(config, "data", "root"),
        "Begins from": config and (config.get("init_from") or "random weights"),
        "Processes": start.get("world_size") and f"{start['world_size']}, ZeRO {start.get('zero_stage')}",
        "Seed": config.get("seed"),
    }
    return [[label, str(value)] for label, value in found.items() if value]


def alerts(events: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Alerts and recoveries, the newest last."""
    found = [event for event in events if event.get("event") in ("alert", "recovery") and is_number(event.get("step"))]
    keys = ("event", "kind", "where", "message", "time")
    return [{"step": event["step"], **{key: str(event.get(key, "")) for key in keys}} for event in found[-MAX_EVENTS:]]


def learns(config: dict[str, Any]) -> bool:
    """Whether some layer learns its positions, as far as the config says: one that is lost does not deny it."""
    scheme, layers = _get(config, "positions", "scheme"), _get(config, "positions", "layers")
    return scheme in (None, "repo") or (scheme == "list" and "repo" in (layers or []))


def head_statistics(rows: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Statistics with one number per head: [S, L, H] each, at S of the steps; None if the run has none."""
    readings = [row for row in rows if any(isinstance(value, list) for value in row.values())]
    per_reading = sum(len(value) for value in readings[-1].values() if isinstance(value, list)) if readings else 0
    readings = evenly(readings, max(2, min(MAX_READINGS, MAX_HEAD_NUMBERS // max(1, per_reading))))
    found: dict[str, dict[tuple[int, int], list[Any]]] = {}
    for index, row in enumerate(readings):
        for name, value in row.items():
            match = LAYER_METRIC.fullmatch(name)
            if match and isinstance(value, list) and value:
                found.setdefault(match[2], {})[index, int(match[1])] = value
    if not found:
        return None
    layers = sorted({layer for cells in found.values() for _, layer in cells})
    num_heads = max(len(value) for cells in found.values() for value in cells.values())
    statistics = []
    for name, cells in found.items():
        values = np.full((len(readings), len(layers), num_heads), np.nan)
        for (index, layer), heads in cells.items():
            numbers = [head if is_number(head) else np.nan for head in heads]
            values[index, layers.index(layer), : len(numbers)] = numbers
        statistics.append({**describe(name), "values": [[short(heads) for heads in step] for step in values]})
    return {"steps": [row["step"] for row in readings], "layers": layers, "heads": num_heads, "statistics": statistics}


def layer_series(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Statistics with one number per layer: a curve for each layer."""
    found: dict[str, dict[int, str]] = {}
    for name in names(rows):
        if match := LAYER_METRIC.fullmatch(name):
            found.setdefault(match[2], {})[int(match[1])] = name
    series = []
    for name, of_layers in found.items():
        curves = charts(rows, {of_layers[layer]: str(layer) for layer in sorted(of_layers)})
        if curves:
            series.append({**describe(name), "curves": [{key: c[key] for key in ("title", "x", "y")} for c in curves]})
    return series


def describe(name: str) -> dict[str, str]:
    """A statistic's name, label, unit and meaning; one that the table does not know is called by its name."""
    known = (STATISTICS | SIGNALS).get(name, Statistic(name.replace("_", " "), "", ""))
    return {"name": name, **asdict(known)}


def probes(folder: Path) -> dict[str, Any] | None:
    """Positions of the probe texts, at as many steps as fit: packed [S, L, H, T] for each; None if there are none."""
    files = list(probe_files(folder).items())
    newest = next((found for found in (read_probes(*file) for file in reversed(files)) if found), None)
    if newest is None:
        return None
    numbers = sum(z.size for z in newest.z.values())
    chosen = evenly(files, max(2, MAX_PROBE_NUMBERS // max(1, numbers)))
    read = [found for found in (read_probes(*file) for file in chosen) if found and _is_alike(found, newest)]
    return {
        "steps": [found.step for found in read],
        "layers": newest.layers,
        "texts": [
            {"name": name, "pieces": pieces, **pack(np.stack([found.z[name] for found in read]))}
            for name, pieces in newest.pieces.items()
        ],
    }


def _is_alike(one: ProbePositions, other: ProbePositions) -> bool:
    shapes = [{name: z.shape for name, z in probe.z.items()} for probe in (one, other)]
    return one.layers == other.layers and one.pieces == other.pieces and shapes[0] == shapes[1]


def _get(config: dict[str, Any], group: str, key: str) -> Any:
    found = config.get(group)
    return found.get(key) if isinstance(found, dict) else None


def _count(number: Any) -> str | None:
    if not is_number(number):
        return None
    for unit, name in ((1e12, "trillion"), (1e9, "billion"), (1e6, "million")):
        if number >= unit:
            return f"{number / unit:.2f} {name}"
    return f"{number:,}"


def _duration(seconds: float) -> str:
    for unit, name in ((86400, "days"), (3600, "hours")):
        if seconds >= 2 * unit:
            return f"{seconds / unit:.0f} {name}"
    return f"{seconds / 60:.0f} minutes"
