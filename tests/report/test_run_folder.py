"""Readers of a run folder: one row per step, in order, whatever was written after it."""

import json
from pathlib import Path

from report.run_folder import RunFiles


def test_lines_of_the_same_step_become_one_row(tmp_path: Path) -> None:
    files = RunFiles(tmp_path)
    files.metrics.write_text(
        '{"step": 2, "train/loss": 2.0}\n{"step": 1, "train/loss": 3.0}\n{"step": 2, "eval/loss": 2.5}\n'
        '{"step": 1, "train/loss": 3.5}\n'
    )
    assert files.read_metrics() == [{"step": 1, "train/loss": 3.5}, {"step": 2, "train/loss": 2.0, "eval/loss": 2.5}]


def test_what_is_not_a_row_of_a_step_is_left_out(tmp_path: Path) -> None:
    files = RunFiles(tmp_path)
    assert (files.read_metrics(), files.read_events(), files.read_config()) == ([], [], {})
    files.metrics.write_text('[1]\n{"step": true}\n{"step": 1e3}\n{"step": 9007199254740993}\n{"step": 1}\n{"step": 2')
    files.events.write_text('7\n{"event": "start"}\n')
    files.config.write_text("- no\n- mapping\n")
    assert files.read_metrics() == [{"step": 1}]
    assert files.read_events() == [{"event": "start"}] and files.read_config() == {}


def test_events_of_steps_that_were_done_again_are_left_out(tmp_path: Path) -> None:
    files = RunFiles(tmp_path)
    said = [
        ("start", 0),
        ("skip", 3),
        ("checkpoint", 4),
        ("skip", 5),
        ("alert", 6),
        ("checkpoint", 8),
        ("slow_step", 9),
    ]
    again = [("resume", 4), ("skip", 5), ("checkpoint", 8)]
    events = [{"event": event, "step": step} for event, step in [*said, *again]]
    damaged = {"event": "alert", "step": 8, "damage": "a file is missing"}
    everything = [*events[:7], damaged, {"event": "recovery", "step": None}, *events[7:]]
    files.events.write_text("".join(json.dumps(event) + "\n" for event in everything))
    assert files.read_events() == [*events[:3], events[6], damaged, {"event": "recovery", "step": None}, *events[7:]]
