"""The data of a page: all that a run folder holds, within bounds, whatever state the folder is in."""

import json
import os
import random
import time
from pathlib import Path
from typing import Any

import pytest

from report.charts import MAX_READINGS
from report.errors import ReportError
from report.metrics import HEAD_SIGNALS, STATISTICS, layer_metric, signals
from report.page import embedded_json, render, write_page
from report.page_data import probe_data, read_run
from report.run_folder import RunFiles
from report.schemes import map_symbols
from report.summary import INACTIVE_SECONDS
from tests.report.conftest import NUM_STEPS, STOP_STEP
from tests.report.folders import HEADS, LAYERS, add_probes, evaluated, make_run, metrics
from train.watch.probe_texts import PROBE_TEXTS


def names(folder: RunFiles) -> set[str]:
    return {name for row in folder.read_metrics() for name in row} - {"step", "tokens"}


def test_every_metric_of_a_real_run_is_on_its_page(real_run: RunFiles) -> None:
    data = read_run(real_run)
    shown = {chart["name"] for charts in ("main", "other", "model") for chart in data[charts]}
    shown |= {
        layer_metric(layer, statistic["name"])
        for statistic in [*data["heads"]["statistics"], *data["layers"]]
        for layer in (1, 2)
    }
    assert shown == names(real_run)
    labels = [statistic["label"] for statistic in data["heads"]["statistics"]]
    assert labels == [figure.label for figure in (STATISTICS | HEAD_SIGNALS).values()]
    expected = [signal.label for signal in signals(map_symbols({})).values()]
    assert [series["label"] for series in data["layers"]] == expected
    assert [text["name"] for text in data["probes"]["texts"]] == list(PROBE_TEXTS)
    assert data["probes"]["steps"] == [0, 2, STOP_STEP, 4, 6, NUM_STEPS]
    assert data["status"] == {"state": "finished", "text": f"finished after step {NUM_STEPS}"}
    assert data["marks"] == [3] and data["progress"] == 1
    assert dict(data["facts"])["Batch"] == "8 x 48 tokens"


def test_metrics_that_the_table_does_not_know_are_shown_under_their_names(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", range(1, 4))
    unknown = {"mine/number": 1.5, "positions/layer_05/mine": [1, 2], "positions/layer_999/std": [3], "eval/x": 4}
    folder.metrics.write_text(folder.metrics.read_text() + json.dumps({"step": 3, **unknown}) + "\n")
    data = read_run(folder)
    shown = {chart["label"]: chart["y"] for chart in data["other"]}
    assert shown["mine/number"] == [1.5]
    assert [(chart["label"], chart["y"]) for chart in data["evaluation"]["charts"]] == [("eval/x", [4])]
    lists = {series["label"]: [curve["y"] for curve in series["curves"]] for series in data["unknown_lists"]}
    assert lists == {"positions/layer_05/mine": [[1], [2]], "positions/layer_999/std": [[3]]}


def test_evaluations_are_read_into_their_own_section(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", range(1, 10))
    assert read_run(folder)["evaluation"] is None
    with folder.metrics.open("a") as file:  # rows of their own, for steps that have one
        file.writelines(json.dumps({"step": step, **evaluated(step)}) + "\n" for step in (3, 6, 9))
    data = read_run(folder)
    found = data["evaluation"]
    assert [(chart["name"], chart["x"]) for chart in found["charts"]] == [
        ("eval/loss", [3, 6, 9]),
        ("eval/perplexity", [3, 6, 9]),
    ]
    assert [[curve["title"] for curve in series["curves"]] for series in found["sources"]] == [["code", "web"]] * 2
    assert found["positions"]["buckets"] == [(0, 8), (8, 16), (16, 24)]
    assert [reading["step"] for reading in found["positions"]["readings"]] == [3, 9]
    assert found["positions"]["readings"][1]["values"] == [pytest.approx(k + 1 / 9, rel=1e-4) for k in (3, 2, 1)]
    assert not any(chart["name"].startswith("eval/") for chart in data["other"])
    assert data["main"][0]["x"] == list(range(1, 10))


def test_a_long_run_gives_a_page_of_bounded_size(tmp_path: Path) -> None:
    data = read_run(make_run(tmp_path / "long", range(1, 12_000)))
    assert len(json.dumps(data)) < 1_000_000
    heads = data["heads"]
    assert len(heads["steps"]) == MAX_READINGS and heads["steps"][0] == 1 and heads["steps"][-1] == 11_999
    assert heads["statistics"][0]["values"][-1] == [
        [pytest.approx(number, rel=1e-4) for number in metrics(11_999)[layer_metric(layer, "std")]] for layer in LAYERS
    ]


def test_short_truncated_and_damaged_files_still_give_a_page(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", range(1, 4))
    whole = folder.metrics.read_bytes()
    nonsense = (
        b'7\n[1]\n"step"\n{"step": "x"}\n{"step": true}\n{"tokens": 3}\n\xff\xfe\n{"step": 4, "train/ce_loss": null}\n'
    )
    folder.metrics.write_bytes(nonsense + whole + whole + whole[: len(whole) // 2 + 9])
    folder.events.write_text('[]\n{"event": "alert"}\n{"event": "alert", "step": 3, "since": NaN}\n{"event"')
    folder.config.write_text("- no\n- mapping\n")
    folder.probe(2).parent.mkdir()
    folder.probe(2).write_bytes(b"cut")
    data = read_run(folder)
    assert data["main"][0]["x"] == [1, 2, 3] and data["probes"] is None and len(data["events"]) == 1
    render(data)


def test_probe_files_with_flipped_or_missing_bytes_are_left_out(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", range(1, 3))
    add_probes(folder, [1, 2], ["a", "b", "c"])
    whole, chance = folder.probe(2).read_bytes(), random.Random(0)
    for _ in range(300):
        damaged = bytearray(whole)
        for _ in range(3):
            damaged[chance.randrange(len(whole))] ^= 1 << chance.randrange(8)
        folder.probe(2).write_bytes(damaged[: chance.randrange(len(whole), 2 * len(whole)) * 2 // 3])
        assert (probes := probe_data(folder.probes)) and probes["steps"] in ([1], [2], [1, 2])


def test_a_folder_whose_name_is_not_utf_8_has_a_page(tmp_path: Path) -> None:
    folder = make_run(Path(os.fsdecode(os.fsencode(tmp_path) + b"/bad\xff")), range(1, 3))
    write_page(read_run(folder), folder.report)
    assert "<title>bad\ufffd</title>" in folder.report.read_text(encoding="utf-8")


def test_numbers_that_are_not_finite_leave_gaps(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", range(1, 3))
    row = {
        **metrics(3),
        "train/ce_loss": None,
        "optim/lr": 10**400,
        "positions/layer_05/std": None,
        "positions/layer_06/std": [1, None, 2, 3],
    }
    folder.metrics.write_text(folder.metrics.read_text() + json.dumps(row) + '\n{"step": 4, "train/ce_loss": NaN}\n')
    data = read_run(folder)
    assert data["main"][0]["x"] == data["main"][1]["x"][:2] == [1, 2] and 3 not in data["main"][1]["x"]
    assert data["heads"]["statistics"][0]["values"][2][:2] == [[None] * HEADS, [1, None, 2, 3]]
    embedded_json(data)  # would refuse a NaN


@pytest.mark.parametrize(
    ("events", "age", "state"),
    [
        ([{"event": "start"}], 0, "running"),
        ([{"event": "start"}], INACTIVE_SECONDS + 60, "inactive"),
        ([{"event": "start"}, {"event": "stop", "reason": "SIGTERM"}], 0, "stopped"),
        ([{"event": "start"}, {"event": "stop", "reason": "SIGTERM"}, {"event": "resume"}], 0, "running"),
        ([{"event": "start"}, {"event": "stop", "reason": "finished"}], 9999, "finished"),
        ([], 0, "running"),
    ],
)
def test_the_status_says_whether_a_run_is_running(
    tmp_path: Path, events: list[dict[str, Any]], age: int, state: str
) -> None:
    folder = make_run(tmp_path / "run", range(1, 3), events=events)
    then = time.time() - age
    os.utime(folder.metrics, (then, then))
    assert read_run(folder)["status"]["state"] == state


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "there is no run folder"),
        (lambda path: path.mkdir(), "has no metrics.jsonl"),
        (lambda path: make_run(path, range(0)), "holds no complete line"),
        (lambda path: make_run(path, range(0)).metrics.write_text('{"step": 1, "tr'), "holds no complete line"),
    ],
)
def test_a_folder_without_a_run_is_one_clear_line(tmp_path: Path, make: Any, message: str) -> None:
    make(tmp_path / "run")
    with pytest.raises(ReportError, match=message):
        read_run(RunFiles(tmp_path / "run"))


def test_probes_of_another_shape_than_the_newest_are_left_out(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", range(1, 3))
    add_probes(folder, [0], ["other", "tokenizer"])
    add_probes(folder, [1, 2], ["a", "b", "c"])
    assert read_run(folder)["probes"]["steps"] == [1, 2]
