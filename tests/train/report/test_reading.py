"""What the report takes from a run folder: everything, within bounds, whatever state the folder is in."""

import base64
import json
import os
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tests.train.conftest import NUM_STEPS, STOP_STEP, Runs
from tests.train.report.folders import HEADS, LAYERS, add_probes, make_run, metrics
from train.errors import TrainError
from train.report.packing import MAX_POINTS, curve, evenly, pack, smooth, thin
from train.report.page import embedded_json, render, write_page
from train.report.reading import MAX_READINGS, SILENCE, names, read_rows, read_run
from train.run_folder import RunFolder
from train.watch.names import SIGNALS, STATISTICS
from train.watch.probe_texts import PROBE_TEXTS


def test_every_metric_of_a_real_run_is_on_its_page(stages: Runs) -> None:
    folder = stages.folder("zero2-fp32-stopped")
    data = read_run(folder)
    shown = {chart["name"] for charts in ("main", "other", "model") for chart in data[charts]}
    shown |= {
        f"positions/layer_{layer:02d}/{statistic['name']}"
        for statistic in [*data["heads"]["statistics"], *data["layers"]]
        for layer in (1, 2)
    }
    assert shown == set(names(read_rows(folder.metrics))) - {"step", "tokens"}
    labels = [statistic["label"] for statistic in data["heads"]["statistics"]]
    assert labels == [statistic.label for statistic in STATISTICS.values()]
    assert {series["label"] for series in data["layers"]} == {signal.label for signal in SIGNALS.values()}
    assert [text["name"] for text in data["probes"]["texts"]] == list(PROBE_TEXTS)
    assert data["probes"]["steps"] == [0, 2, STOP_STEP, 4, 6, NUM_STEPS]
    assert data["status"] == {"state": "finished", "text": f"finished after step {NUM_STEPS}"}
    assert data["marks"] == [3] and data["progress"] == 1
    assert dict(data["facts"])["Batch"] == "8 x 48 tokens"


def test_a_long_run_gives_a_page_of_bounded_size(tmp_path: Path) -> None:
    short, long = make_run(tmp_path / "short", range(1, 100)), make_run(tmp_path / "long", range(1, 12_000))
    sizes = [len(json.dumps(read_run(folder))) for folder in (short, long)]
    assert sizes[1] < 1_000_000
    heads = read_run(long)["heads"]
    assert len(heads["steps"]) == MAX_READINGS and heads["steps"][0] == 1 and heads["steps"][-1] == 11_999
    assert heads["statistics"][0]["values"][-1] == [
        [pytest.approx(number, rel=1e-4) for number in metrics(11_999)[f"positions/layer_{layer:02d}/std"]]
        for layer in LAYERS
    ]


def test_a_young_a_torn_and_a_damaged_file_still_give_a_page(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", range(1, 4))
    whole = folder.metrics.read_bytes()
    nonsense = (
        b'7\n[1]\n"step"\n{"step": "x"}\n{"step": true}\n{"tokens": 3}\n\xff\xfe\n{"step": 4, "train/ce_loss": null}\n'
    )
    folder.metrics.write_bytes(nonsense + whole + whole + whole[: len(whole) // 2 + 9])
    folder.events.write_text('[]\n{"event": "alert"}\n{"event": "alert", "step": 3, "since": NaN}\n{"event"')
    folder.config.write_text("- no\n- mapping\n")
    folder.probe(2).parent.mkdir()
    folder.probe(2).write_bytes(b"torn")
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
        assert (probes := read_run(folder)["probes"]) and probes["steps"] in ([1], [2], [1, 2])


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
        ([{"event": "start"}], SILENCE + 60, "silent"),
        ([{"event": "start"}, {"event": "stop", "reason": "SIGTERM"}], 0, "stopped"),
        ([{"event": "start"}, {"event": "stop", "reason": "SIGTERM"}, {"event": "resume"}], 0, "running"),
        ([{"event": "start"}, {"event": "stop", "reason": "finished"}], 9999, "finished"),
        ([], 0, "running"),
    ],
)
def test_the_status_says_whether_a_run_lives(
    tmp_path: Path, events: list[dict[str, Any]], age: int, state: str
) -> None:
    folder = make_run(tmp_path / "run", range(1, 3), events=events)
    then = time.time() - age
    os.utime(folder.metrics, (then, then))
    assert read_run(folder)["status"]["state"] == state


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda path: None, "there is no run folder"),
        (lambda path: path.mkdir(), "has no metrics.jsonl"),
        (lambda path: make_run(path, range(0)), "holds no whole line yet"),
        (lambda path: make_run(path, range(0)).metrics.write_text('{"step": 1, "tr'), "holds no whole line yet"),
    ],
)
def test_a_folder_without_a_run_is_one_clear_line(tmp_path: Path, make: Any, complaint: str) -> None:
    make(tmp_path / "run")
    with pytest.raises(TrainError, match=complaint):
        read_run(RunFolder(tmp_path / "run"))


def test_probes_of_another_shape_than_the_newest_are_left_out(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", range(1, 3))
    add_probes(folder, [0], ["other", "tokenizer"])
    add_probes(folder, [1, 2], ["a", "b", "c"])
    assert read_run(folder)["probes"]["steps"] == [1, 2]


@given(arrays(np.float64, st.integers(1, 5000), elements=st.floats(-1e6, 1e6)))
def test_thinning_keeps_both_ends_and_every_extreme(y: np.ndarray) -> None:
    x = np.arange(len(y))
    thin_x, thin_y = thin(x, y)
    assert len(thin_x) <= MAX_POINTS
    assert (np.diff(thin_x) > 0).all() and np.array_equal(y[thin_x], thin_y)
    assert {thin_x[0], thin_x[-1]} == {0, len(y) - 1}
    assert thin_y.max() == y.max() and thin_y.min() == y.min()


@given(st.integers(0, 500), st.integers(1, 50))
def test_evenly_spaced_items_hold_the_first_and_the_last(count: int, most: int) -> None:
    chosen = evenly(range(count), most)
    assert len(chosen) == min(count, most) and chosen == sorted(set(chosen))
    assert not count or most == 1 or (chosen[0], chosen[-1]) == (0, count - 1)


def test_the_running_mean_has_no_bias_at_its_start() -> None:
    assert smooth(np.full(500, 3.0)) == pytest.approx(np.full(500, 3.0))
    noisy = 3 + np.random.default_rng(0).normal(size=5000)
    assert np.abs(smooth(noisy)[200:] - 3).max() < 0.5
    assert curve(range(5000), noisy.tolist())["smooth_y"] and not curve(range(50), list(range(50)))["smooth_y"]


def test_packed_positions_hold_16_bits_of_each_row() -> None:
    z = np.random.default_rng(0).normal(size=(2, 3, 4, 50)) * np.logspace(-3, 5, 4)[:, None]
    z[0, 0, 0] = 7.0
    z[1, 2, 3, 0] = np.nan
    packed = pack(z)
    levels, low, spread = (
        np.frombuffer(base64.b64decode(packed[key]), dtype).astype(np.float64)
        for key, dtype in (("levels", "<u2"), ("low", "<f4"), ("range", "<f4"))
    )
    back = low.reshape(2, 3, 4, 1) + spread.reshape(2, 3, 4, 1) * levels.reshape(packed["shape"]) / 65535
    known = np.nan_to_num(z)
    assert (np.abs(back - known).max(axis=-1) <= 2e-5 * np.ptp(known, axis=-1) + 1e-6).all()


def test_no_string_ends_the_script_that_holds_it() -> None:
    hostile = {"name": "</script><!-- <script>"}
    embedded = embedded_json(hostile)
    assert "<" not in embedded and json.loads(embedded) == hostile
