"""The head of a run's page in words: its state, its progress, the main facts, and what the position watch found."""

import time
from collections.abc import Mapping
from typing import Any

from report.metrics import TOKENS
from report.run_folder import FINISHED, PRUNED, Row, RunFiles, is_number

MAX_EVENTS = 200
INACTIVE_SECONDS = 600  # without a new row, after which a run that has not stopped counts as inactive


def status(files: RunFiles, events: list[Row], step: int, max_steps: Any) -> dict[str, str]:
    """Returns `state`, one of running, inactive, stopped, pruned and finished, and the same in words, `text`."""
    of = f" of {max_steps}" if is_number(max_steps) else ""
    ends = [event for event in events if event.get("event") in ("start", "resume", "stop", PRUNED)]
    last = ends[-1] if ends else {}
    if last.get("event") == PRUNED:
        return {"state": PRUNED, "text": f"pruned after step {step}{of}: other trials of its search did better"}
    if last.get("event") == "stop":
        if last.get("reason") == FINISHED:
            return {"state": "finished", "text": f"finished after step {step}"}
        return {"state": "stopped", "text": f"stopped after step {step}{of}: {last.get('reason')}"}
    age = time.time() - files.metrics.stat().st_mtime
    if age > INACTIVE_SECONDS:
        return {"state": "inactive", "text": f"no new metrics for {_duration(age)}, after step {step}{of}"}
    return {"state": "running", "text": f"running, step {step}{of}"}


def progress(step: int, max_steps: Any) -> float:
    """Returns the share of the steps that are done."""
    return min(1.0, step / max_steps) if is_number(max_steps) and max_steps > 0 else 0.0


def facts(config: Mapping[str, Any], events: list[Row], last: Row) -> list[list[str]]:
    """Returns (label, value) of the size, the positions, the data and the start of a run, as far as they are known."""
    model, positions = config.get("model"), _get(config, "positions", "scheme")
    starts = [event for event in events if event.get("event") in ("start", "resume")]
    start = starts[-1] if starts else {}
    first_layer = _get(config, "positions", "start_layer")
    batch, length = config.get("global_batch_size"), config.get("sequence_length")
    found: dict[str, Any] = {
        "Tokens read": _count(last.get(TOKENS)),
        "Batch": batch and length and f"{batch} x {length} tokens",
        "Model": model and f"{_get(config, 'model', 'num_layers')} layers, {_get(config, 'model', 'hidden_size')} wide",
        "Positions": positions and (f"{positions} from layer {first_layer}" if first_layer is not None else positions),
        "Peak learning rate": _get(config, "optimizer", "lr"),
        "Data": _get(config, "data", "root"),
        "Starts from": config and (config.get("init_from") or "random weights"),
        "Processes": start.get("world_size") and f"{start['world_size']}, ZeRO {start.get('zero_stage')}",
        "Seed": config.get("seed"),
    }
    return [[label, str(value)] for label, value in found.items() if value]


def alerts(events: list[Row]) -> list[dict[str, Any]]:
    """Returns the newest alerts, recoveries and rollbacks, the newest last."""
    shown = ("alert", "recovery", "rollback")
    found = [event for event in events if event.get("event") in shown and is_number(event.get("step"))]
    keys = ("event", "kind", "where", "message", "time")
    return [{"step": event["step"], **{key: str(event.get(key, "")) for key in keys}} for event in found[-MAX_EVENTS:]]


def resumed_steps(events: list[Row]) -> list[int]:
    """Returns the steps after which the run was resumed."""
    return [event["step"] for event in events if event.get("event") == "resume" and is_number(event.get("step"))]


def _get(config: Mapping[str, Any], group: str, key: str) -> Any:
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
