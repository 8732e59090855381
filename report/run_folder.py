"""The files of one run folder, `runs/NAME/`: where they are and what is in them. Only this file spells their names.

config.yaml      of the last start         checkpoints/   step-NNNNNNN/ and `latest`
metrics.jsonl    a line per logged step   wandb/         offline files, and the run's id
events.jsonl     start, alert, stop ...   hf/            final weights, Hugging Face layout
probes/          positions of fixed texts  report.html    all of it, as one page
exports/         the same of earlier steps  stuck/         stacks of ranks that did not move

Readers accept any state of a folder: a run may be young, killed, or of another version.
"""

from pathlib import Path
from typing import Any

import yaml

from common.json_lines import read_json_lines
from report.metrics import STEP

FINISHED = "finished"  # the reason in the stop event of a run that reached its last step
LARGEST = 1e300  # number that is shown; JSON also has integers that no float can hold
MAX_STEP = 2**53  # JavaScript's largest exact integer

Row = dict[str, Any]


class RunFiles:
    """Paths of a run, and readers of its files. Creates nothing."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.config = self.path / "config.yaml"
        self.metrics = self.path / "metrics.jsonl"
        self.events = self.path / "events.jsonl"
        self.checkpoints = self.path / "checkpoints"
        self.wandb = self.path / "wandb"
        self.hf = self.path / "hf"
        self.exports = self.path / "exports"
        self.stuck = self.path / "stuck"
        self.probes = self.path / "probes"
        self.report = self.path / "report.html"

    def probe(self, step: int) -> Path:
        """Returns the file with the positions of the probe texts at a step."""
        return self.probes / f"step-{step:07d}.npz"

    def read_metrics(self) -> list[Row]:
        """Returns one row per step, in the order of the steps; lines without a step are left out.

        Lines of the same step are one row: a later line adds its keys, and its values count where both have a key.
        """
        by_step: dict[int, Row] = {}
        for row in read_json_lines(self.metrics):
            step = row.get(STEP) if isinstance(row, dict) else None
            if isinstance(step, int) and is_number(step) and step < MAX_STEP:
                by_step.setdefault(step, {}).update(row)
        return [by_step[step] for step in sorted(by_step)]

    def read_events(self) -> list[Row]:
        """Returns all events, the oldest first."""
        return [event for event in read_json_lines(self.events) if isinstance(event, dict)]

    def read_config(self) -> dict[str, Any]:
        """Returns config.yaml as plain data; empty if there is none, or if it is no mapping."""
        try:
            config = yaml.safe_load(self.config.read_text())
        except (OSError, yaml.YAMLError, UnicodeDecodeError):
            return {}
        return config if isinstance(config, dict) else {}


def is_number(value: Any) -> bool:
    """Returns whether this is a finite number of a size that can still be rounded; True and False are none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and -LARGEST <= value <= LARGEST
