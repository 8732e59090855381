"""Means and paired differences of attention masses that are made by hand."""

import json
from pathlib import Path
from typing import Any

import pytest

from report.evaluation.attention import difference_rows, means_rows, per_token, read_attention
from report.evaluation.folder import open_folders
from report.evaluation.page import evaluation_page

COUNTS = {"first": 1, "needle": 2, "query": 10, "rest": 87, "own": 3}


def row(index: int, needle: float) -> dict[str, Any]:
    """Two layers of two heads; the second layer's needle mass is three times the first's."""
    mass = {"first": 0.3, "query": 0.2, "rest": 0.1, "own": 0.0}
    two_layers = {name: [[value, value]] * 2 for name, value in mass.items()}
    needles = [[needle, 0.0], [3 * needle, 0.0]]
    return {"index": index, "tokens": 103, "counts": COUNTS, "mass": {**two_layers, "needle": needles}}


def folder_of(path: Path, needles: list[float], **settings: Any) -> Path:
    place = path / "attention"
    place.mkdir(parents=True)
    (place / "settings.json").write_text(json.dumps({"schemes": ["rope", "repo"], "weights": path.name, **settings}))
    lines = [json.dumps(row(index, needle)) for index, needle in enumerate(needles)]
    (place / "niah_single_1-128.jsonl").write_text("\n".join([*lines, "{damaged", ""]))
    return path


def test_masses_are_per_token_and_layers_of_each_scheme_are_apart(tmp_path: Path) -> None:
    folders = open_folders([folder_of(tmp_path / "demo", [0.1, 0.3])])
    found = read_attention(folders)
    assert per_token(found[0].rows[0], "needle", [0, 1]) == pytest.approx(100 * (0.1 + 0.3) / 4 / 2)
    assert per_token(found[0].rows[0], "rest with first", [0, 1]) == pytest.approx(100 * 0.4 / 88)
    cells = means_rows(found)
    # Of all layers: 5 and 15 per token in 1e-2, mean 10, SE |15 - 5| / 2
    assert [each[2] for each in cells] == ["all", "rope", "repo"]
    assert [each[5] for each in cells] == ["10.000 ± 5.000", "5.000 ± 2.500", "15.000 ± 7.500"]
    assert cells[0][9] == "0.971" and cells[0][10] == "30.0 ± 0.0" and cells[0][12] == "2, 10, 87"


def test_differences_are_paired_by_sample(tmp_path: Path) -> None:
    first = folder_of(tmp_path / "rope", [0.1, 0.3], seed=1)
    second = folder_of(tmp_path / "repo", [0.2, 0.4, 0.9], seed=1)
    folders = open_folders([first, second])
    (cells,) = difference_rows(read_attention(folders))
    assert cells[2:5] == ["repo - rope", "2", "5.0000 ± 0.0000"]  # the spread of samples is gone
    text = evaluation_page(folders)
    assert "repo - rope" in text and text.count("Paired differences") == 1
    assert "The paper&#x27;s table 4" in text or "The paper's table 4" in text


def test_other_samples_are_not_compared(tmp_path: Path) -> None:
    paths = [folder_of(tmp_path / f"seed{seed}", [0.1, 0.2], seed=seed) for seed in (1, 2)]
    (cells,) = difference_rows(read_attention(open_folders(paths)))
    assert cells[4:] == ["other samples"] * 3
