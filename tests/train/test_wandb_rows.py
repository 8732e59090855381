"""Rows of metrics from a file of W&B that is made by hand: what it has of a row comes back under its own names."""

import json
from importlib import import_module
from pathlib import Path
from typing import Any

from report.metrics import MetricTable
from report.panels import scalars
from tests.report.folders import evaluated, metrics
from train.wandb_rows import FRAGMENT, WHOLE, read_rows


def write_wandb(folder: Path, rows: list[dict[str, Any]]) -> None:
    """A .wandb file with these rows, each a record of one fragment."""
    protocol = import_module("wandb.proto.wandb_internal_pb2")
    records = b""
    for row in rows:
        record = protocol.Record()
        for name, value in row.items():
            record.history.item.add(key=name, value_json=json.dumps(value))
        content = record.SerializeToString()
        records += FRAGMENT.pack(0, len(content), WHOLE) + content
    part = folder / "offline-run-1-abc"
    part.mkdir(parents=True)
    (part / "run-abc.wandb").write_bytes(b":W&B" + bytes(3) + records)


def test_a_row_comes_back_without_what_is_of_single_heads(tmp_path: Path) -> None:
    rows = [{**metrics(step), **evaluated(step), "eval/probe/copy-64/nll": 0.5} for step in (1, 2)]
    table = MetricTable.of({})
    write_wandb(tmp_path, [{"_step": row["step"], "_runtime": 3.5, **scalars(row, table)} for row in rows])
    whole = {name for name, value in rows[0].items() if not isinstance(value, list)}
    assert read_rows(tmp_path) == {row["step"]: {name: row[name] for name in row if name in whole} for row in rows}
