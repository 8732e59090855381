"""Reading what W&B wrote offline, record by record.

A .wandb file is a seven-byte header and a LevelDB log: blocks of 32 KiB that hold fragments (checksum, length, kind),
kind 1 a whole record, 2, 3 and 4 its first, middle and last part. A record is a protobuf message.
"""

import json
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wandb.proto.wandb_internal_pb2 import Record

BLOCK, FRAGMENT = 1 << 15, struct.Struct("<IHB")
WHOLE, FIRST, LAST = 1, 2, 4


@dataclass
class OfflineRun:
    """One launch's part of a W&B run."""

    run_id: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)
    alerts: list[tuple[str, str, str]] = field(default_factory=list)
    """Title, text and level."""
    media: Path = Path()
    """What the paths of images are relative to."""


def offline_runs(folder: Path) -> list[OfflineRun]:
    """Every part below `folder`, oldest first."""
    paths = sorted(folder.glob("offline-run-*/run-*.wandb"), key=lambda path: path.stat().st_mtime_ns)
    return [read_offline(path) for path in paths]


def read_offline(path: Path) -> OfflineRun:
    """The run id, the config, the logged rows and the alerts."""
    run = OfflineRun(media=path.parent / "files")
    for message in _messages(path.read_bytes()):
        record = Record.FromString(message)
        if record.HasField("run"):
            run.run_id = record.run.run_id
            run.config.update({item.key: json.loads(item.value_json) for item in record.run.config.update})
        elif record.HasField("history"):
            run.rows.append(_nested((item.nested_key or [item.key], item.value_json) for item in record.history.item))
        elif record.HasField("alert"):
            run.alerts.append((record.alert.title, record.alert.text, record.alert.level))
    return run


def _nested(items: Iterable[tuple[Sequence[str], str]]) -> dict[str, Any]:
    """A row from paths of keys and JSON; images and histograms are dicts in it."""
    row: dict[str, Any] = {}
    for path, value in items:
        owner = row
        for key in path[:-1]:
            owner = owner.setdefault(key, {})
        owner[path[-1]] = json.loads(value)
    return row


def _messages(content: bytes) -> Iterator[bytes]:
    offset, parts = 7, b""
    while offset + FRAGMENT.size <= len(content):
        if BLOCK - offset % BLOCK < FRAGMENT.size:  # too little left of the block for another fragment
            offset += BLOCK - offset % BLOCK
            continue
        _, length, kind = FRAGMENT.unpack_from(content, offset)
        offset += FRAGMENT.size
        fragment = content[offset : offset + length]
        offset += length
        parts = fragment if kind in (WHOLE, FIRST) else parts + fragment
        if kind in (WHOLE, LAST):
            yield parts
