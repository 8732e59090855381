"""What W&B gets of a step: panels in sections, and pictures whose colors can be compared."""

from typing import Any

import numpy as np
import pytest

from report import pictures
from report.metrics import MetricTable
from report.panels import Panels, PanelTable, panel_name, scalars
from tests.report.folders import evaluated, metrics

TABLE = MetricTable.of({})


def panels_of_every_step() -> Panels:
    return Panels(TABLE, picture_interval=1, sequence_length=48, num_frequencies=8)


def test_heads_become_their_layers_mean_lowest_and_highest_in_a_section_per_statistic() -> None:
    metrics = {
        "step": 3,
        "train/loss": 2.0,
        "positions/layer_05/std": [0.5, 0.25],
        "positions/layer_05/gate_norm": 7.0,
        "positions/layer_05/range": None,
        "positions/layer_05/mean": [float("nan"), 3.0, None],
        "positions/layer_05/min": [None, None],
        "positions/open_alerts": 1,
    }
    assert scalars(metrics, TABLE) == {
        "train/loss": 2.0,
        "positions_std/layer_05_mean": 0.375,
        "positions_std/layer_05_min": 0.25,
        "positions_std/layer_05_max": 0.5,
        "positions_gate_norm/layer_05": 7.0,
        "positions_mean/layer_05_mean": 3.0,
        "positions_mean/layer_05_min": 3.0,
        "positions_mean/layer_05_max": 3.0,
        "positions/open_alerts": 1,
    }


def test_evaluations_have_sections_by_source_and_by_position() -> None:
    assert scalars({"step": 2, **evaluated(2), "eval/probe/copy-64/nll": 0.5}, TABLE) == {
        "eval/probe/copy-64/nll": 0.5,
        "eval/loss": 2.5,
        "eval/perplexity": 10.0,
        "eval_source_loss/web": 3.5,
        "eval_source_perplexity/web": 2.7**3,
        "eval_source_loss/code": 1.5,
        "eval_source_perplexity/code": 2.7,
        "eval_position_loss/0-8": 3.5,
        "eval_position_loss/8-16": 2.5,
        "eval_position_loss/16-24": 1.5,
    }


def test_a_panel_of_one_number_gives_back_its_metric() -> None:
    panels = PanelTable(TABLE)
    probe = {"eval/probe/copy-64/nll": 0.5, "positions/std": 0.25, "positions/layer_123/gradient_share": 0.5}
    for name in {**metrics(2), **evaluated(2), **probe}.keys() - {"step", "tokens"}:
        assert panels.metric(panel_name(name, TABLE)) == name
    for other in (
        "positions_std/layer_05_mean",
        "positions_std/heads",
        "eval_source_loss/",
        "_runtime",
        "probes/prose",
    ):
        assert panels.metric(other) is None


def heads(step: int, **statistics: float) -> dict[str, Any]:
    """Metrics with these statistics in four heads of two layers."""
    row = {f"positions/layer_{layer:02d}/{name}": [x] * 4 for layer in (1, 2) for name, x in statistics.items()}
    return {"step": step, **row}


def test_a_collapse_has_other_colors_than_a_healthy_step() -> None:
    for name in ("std", "range", "similarity", "resolution"):
        panels = panels_of_every_step()
        low, high = (panels.of(heads(step, **{name: step / 2000})) for step in (2, 1800))
        seen = [np.asarray(row[f"positions_pictures/{name}"].image)[170, 200].astype(int) for row in (low, high)]
        assert (seen[0] != seen[1]).any() and np.abs(seen[0] - seen[1]).max() > (2 if name == "resolution" else 30), (
            name
        )


def test_numbers_that_cannot_be_drawn_cost_a_picture_and_not_the_row(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    wild = heads(1, std=1e300, mean=0.0, range=1e-320) | {
        "positions/layer_02/std": [1.0] * 4,
        "positions/layer_02/mean": [1e308, -1e308, None, float("inf")],
    }
    row = panels_of_every_step().of(wild)
    assert {f"positions_pictures/{name}" for name in ("std", "mean", "range")} < set(row) and not caplog.records

    def refuse(*_: Any) -> None:
        raise ValueError("too wild")

    monkeypatch.setattr(pictures, "draw_heat", refuse)
    row = panels_of_every_step().of(wild)
    assert row["positions_std/layer_01_max"] == 1e300 and "positions_pictures/std" not in row
    assert "W&B gets no positions_pictures/std of this step: too wild" in caplog.messages
