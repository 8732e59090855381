"""The bench of the position watch: a recorded run is judged without training it again."""

import gzip
import json
from pathlib import Path
from unittest import mock

import pytest

from benchmarks.detectors import recording
from benchmarks.detectors.cases import Case, Half
from benchmarks.detectors.recording import Recorder, path_of, read
from benchmarks.watch_detectors import is_in_time, judged, table
from tests.distributed import run_ranks
from train.distributed import Ranks

HEALTHY = Case("healthy", 0, "small", 3e-3, 2, interval=1)
FADING = Case("fading", 0, "small", 3e-3, 13, "decay", "W_z of a head 0.5 % less a step", 1, 1, interval=1)


def record(ranks: Ranks, folder: Path) -> None:
    recorder = Recorder(ranks, folder)
    for case in (HEALTHY, FADING):
        recorder.record(case)


@pytest.mark.system
def test_runs_are_recorded_once_and_judged_from_their_files(tmp_path: Path) -> None:
    run_ranks(record, 1, tmp_path)
    with mock.patch.object(recording, "Run", side_effect=AssertionError("it trains again")):
        outcome = judged(FADING, read(FADING, tmp_path))
        assert is_in_time(FADING, outcome) and outcome.kinds == ("wrong_update",) and not outcome.wrong
        assert [reading.step for reading in read(HEALTHY, tmp_path)] == [1, 2]
        with mock.patch("benchmarks.watch_detectors.all_cases", lambda: [HEALTHY, FADING]):
            lines = table(Half.tuning, tmp_path)
    assert "1 injured runs: 1 caught, 1 in time, 0 with a wrong alert. 1 healthy runs: 0 with an alarm." in lines
    with gzip.open(path_of(FADING, tmp_path), "rt") as file:
        rows = [json.loads(line) for line in file]
    for row in rows:  # as an older version recorded it
        for values in row["heads"].values():
            del values["update_error"]
    with gzip.open(path_of(FADING, tmp_path), "wt") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    assert judged(FADING, read(FADING, tmp_path)).readings is None
