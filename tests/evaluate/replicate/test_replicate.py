"""A whole replication through the real trainer: stopped, and gone on with by the same command."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from train.run_folder import RunFolder

COMMAND = [sys.executable, "-m", "evaluate", "replicate", "size=tiny", "tuning.seeds=[]", "--out"]


@pytest.mark.slow
def test_a_stopped_replication_goes_on(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with subprocess.Popen([*COMMAND, str(out)], stdout=subprocess.PIPE, text=True, cwd=Path.cwd()) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "backbone-seed-1: trained" in line:
                process.send_signal(signal.SIGTERM)
                break
        process.communicate()
    assert process.returncode == 130 and not (out / "findings.json").exists()
    weights = out / "runs" / "backbone-seed-1" / "hf" / "model.safetensors"
    written = weights.stat().st_mtime_ns
    ended = subprocess.run([*COMMAND, str(out)], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert weights.stat().st_mtime_ns == written and "backbone" not in ended.stdout
    found = json.loads((out / "findings.json").read_text())
    assert [(each["scheme"], each["length"]) for each in found["means"]] == [
        (scheme, length) for length in (32, 40) for scheme in ("rope", "residual")
    ]
    assert found["positions"][0]["figures"]["std"] >= 0
    assert found["primary"]["t_low"] is None  # one seed has no interval; NaN would be no JSON
    assert "residual (ours) (primary)" in (out / "table.md").read_text()
    again = subprocess.run([*COMMAND, str(out)], capture_output=True, text=True, check=False)
    assert again.returncode == 0 and "trained" not in again.stdout
    other = subprocess.run([*COMMAND, str(out), "stage_2.steps=5"], capture_output=True, text=True, check=False)
    assert other.returncode == 2 and "was made with other settings (stage_2:" in other.stderr


@pytest.mark.slow
def test_a_run_that_fails_is_named_with_its_log(tmp_path: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    arguments = [*COMMAND, str(tmp_path / "out"), "parallel=1", "run=[model.hiden_size=16]"]
    ended = subprocess.run(arguments, capture_output=True, text=True, check=False, env=environment)
    log = tmp_path / "out" / "runs" / "backbone-seed-1" / "console.log"
    assert ended.returncode == 2 and ended.stderr == f"error: backbone-seed-1 ended with code 2: see {log}\n"
    assert "hiden_size" in log.read_text()


@pytest.mark.slow
def test_a_killed_replication_leaves_no_run_that_trains(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with subprocess.Popen([*COMMAND, str(out), "stage_1.steps=4000"], stdout=subprocess.DEVNULL) as process:
        folder = RunFolder(out / "runs" / "backbone-seed-1")
        while not folder.metrics.exists() and process.poll() is None:
            time.sleep(0.1)
        assert process.poll() is None
        process.kill()
    while folder.is_in_use():
        time.sleep(0.1)
    event = folder.last_event()
    assert event is not None and event["event"] == "stop" and event["detail"] == "SIGTERM" and event["step"] < 4000
    assert (folder.checkpoints / f"step-{event['step']:07d}").is_dir()
