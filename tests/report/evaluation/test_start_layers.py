"""Runs that differ in their start layer, made by hand."""

import json
from pathlib import Path

import pytest

from evaluate.__main__ import main
from report.evaluation.folder import open_folders
from report.evaluation.start_layers import gather, start_layer_rows, start_layers

CONFIG = """
positions: {{scheme: {scheme}, start_layer: {start}, layers: null}}
model: {{num_layers: 6}}
"""
HEADER = "task,length,samples,score,score_se,nll,nll_se,tokens"


def run_of(path: Path, scheme: str, start: str, losses: list[float]) -> Path:
    path.mkdir(parents=True)
    (path / "config.yaml").write_text(CONFIG.format(scheme=scheme, start=start))
    rows = [{"step": 10 * (i + 1), "tokens": 10, "eval/loss": loss} for i, loss in enumerate(losses)]
    (path / "metrics.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in [*rows, {"step": 99, "tokens": 9}]))
    return path


def test_loss_and_scores_are_gathered_by_start_layer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [
        run_of(tmp_path / "runs/rope", "rope", "null", [3.0]),
        run_of(tmp_path / "runs/high", "repo", "4", [3.5, 3.25]),
        run_of(tmp_path / "runs/usual", "repo", "null", [3.0]),
    ]
    evaluations = tmp_path / "evaluations"
    for name, score in (("high-hf", 50.0), ("usual-step-0000020", 75.0), ("usual-step-0000010", 1.0)):
        (evaluations / name).mkdir(parents=True)
        text = f"{HEADER}\ncopy,128,20,{score},2.0,,,9\n"
        (evaluations / name / "table.csv").write_text(text)
    found = gather(runs, evaluations)
    assert [row[:3] for row in start_layer_rows(found)] == [
        ["validation loss", "2", "usual"],  # a third of the layers, as published
        ["validation loss", "4", "high"],
        ["validation loss", "none", "rope"],
        ["copy, 128 tokens: score, %", "2", "usual"],
        ["copy, 128 tokens: score, %", "4", "high"],
    ]
    (evaluations / "high-hf" / "table.csv").write_text(f"{HEADER}\ncopy,128,20,100.0,0.0,2.0,nan,9\n")
    alike = [row[3] for row in start_layer_rows(gather(runs[1:2], evaluations))][1]
    assert alike == "100.000 (high-hf, 20 samples, all alike: 95 % range [86.1, 100.0])"
    assert [row[3] for row in start_layer_rows(found)][1:4:2] == [
        "3.250 (step 20, 10 tokens)",
        "75.000 ± 2.000 (usual-step-0000020, 20 samples)",
    ]
    assert main(["start-layers", *map(str, runs), "--evaluations", str(evaluations)]) == 0
    drawn = start_layers(open_folders([evaluations / "start-layers"]))
    assert drawn is not None and "runs, none: 3" in drawn and "runs, 2: 75 ± 2" in drawn
    assert "WARNING" not in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    capsys.readouterr()
    assert main(["start-layers", str(tmp_path / "empty")]) == 2
    assert "has no config.yaml: give the folder of a run" in capsys.readouterr().err


def test_a_run_that_has_not_finished_is_marked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [run_of(tmp_path / "runs" / name, "repo", "4", [3.5]) for name in ("young", "done")]
    for run in runs:
        (run / "config.yaml").write_text((run / "config.yaml").read_text() + "max_steps: 200\n")
    events = [{"event": "start", "step": 0}, {"event": "stop", "step": 200, "reason": "finished"}]
    (runs[1] / "events.jsonl").write_text("".join(f"{json.dumps(event)}\n" for event in events))
    out = tmp_path / "out"
    assert main(["start-layers", *map(str, runs), "--evaluations", str(tmp_path / "none"), "--out", str(out)]) == 0
    said = capsys.readouterr()
    assert said.err == f"WARNING: {runs[0]} has not finished (step 99 of 200): its rows are marked\n"
    assert "3.500 (step 10, 10 tokens; unfinished, step 99 of 200)" in said.out and "tokens) |" in said.out
    drawn = start_layers(open_folders([out]))
    assert drawn is not None and drawn.count("unfinished, step 99 of 200") == 1
