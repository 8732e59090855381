"""Rows of metrics from the files that W&B leaves in a run folder: the last resort where metrics.jsonl has lost them.

A .wandb file is a seven-byte header and a LevelDB log: blocks of 32 KiB that hold fragments (checksum, length, kind),
kind 1 a whole record, 2, 3 and 4 its first, middle and last part. A record is a protobuf message. The package wandb
has no reader for it.

Of a row, W&B has the figures that it shows as they are, some in a panel of another name (report/panels.py). The figures
of single heads become means and histograms there, and cannot be rebuilt.
"""

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from common.json_lines import read_bytes
from report.metrics import CE_LOSS, STEP, TOKENS, MetricTable
from report.panels import PanelTable
from report.run_folder import Row, is_number
from train.temporary import import_into_own_folder

BLOCK, FRAGMENT = 1 << 15, struct.Struct("<IHB")
WHOLE, FIRST, MIDDLE, LAST = 1, 2, 3, 4


def read_rows(folder: Path) -> dict[int, Row]:
    """Returns the rows of training steps below a run's `wandb` folder, by step; of several of a step, the newest.

    What is damaged or half written is left out.
    """
    rows: dict[int, Row] = {}
    panels = PanelTable(MetricTable.of({}))
    for path in sorted(folder.glob("*run-*/run-*.wandb")):  # the names of their folders begin with the time
        for record in read_records(path):
            if record.HasField("history"):
                items = [([*item.nested_key] or [item.key], item.value_json) for item in record.history.item]
                row = {path[0]: _number(value) for path, value in items if len(path) == 1}  # the others are pictures
                step = row.get("_step")
                if isinstance(step, int) and row.get(CE_LOSS) is not None:
                    rows[step] = {STEP: step, **_metrics(row, panels)}
    return dict(sorted(rows.items()))


def read_records(path: Path) -> Iterator[Any]:
    """Yields the records of a .wandb file, as far as they are written."""
    with import_into_own_folder():
        from google.protobuf.message import DecodeError
        from wandb.proto import wandb_internal_pb2 as protocol
    kind: Any = vars(protocol)["Record"]  # made when the module is imported
    for message in _messages(read_bytes(path)):
        try:
            yield kind.FromString(message)
        except DecodeError:
            continue


def _metrics(row: Row, panels: PanelTable) -> Row:
    named = ((TOKENS if name == TOKENS else panels.metric(name), value) for name, value in row.items())
    return {name: value for name, value in named if name is not None and value is not None}


def _number(text: str) -> float | int | None:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if is_number(value) else None


def _messages(content: bytes) -> Iterator[bytes]:
    offset, parts = 7, b""
    while offset + FRAGMENT.size <= len(content):
        if BLOCK - offset % BLOCK < FRAGMENT.size:  # too little left of the block for another fragment
            offset += BLOCK - offset % BLOCK
            continue
        _, length, kind = FRAGMENT.unpack_from(content, offset)
        if kind not in (WHOLE, FIRST, MIDDLE, LAST) or offset + FRAGMENT.size + length > len(content):
            return  # half written
        offset += FRAGMENT.size
        fragment = content[offset : offset + length]
        offset += length
        parts = fragment if kind in (WHOLE, FIRST) else parts + fragment
        if kind in (WHOLE, LAST):
            yield parts
