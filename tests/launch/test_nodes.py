"""A run over several machines: two launchers on this one stand for them, each with its own command."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.launch.launching import ENDLESS, ROOT, SMALL, end, last_step, read, start, wait_for
from tests.ports import hold_ports
from train.errors import EXIT_OK, EXIT_STOPPED, EXIT_USER_ERROR
from train.run_folder import RunFolder

BRIEF = ("launch.processes=1", "checkpoint.export_hf=false", "evaluation.enabled=false")


def command(root: Path, sample: Path, *extra: str) -> list[str]:
    where = [f"run_root={root}", f"data.root={sample}", "name=both", "launch=nodes", "launch.nodes=2"]
    return [*SMALL, *BRIEF, *where, f"launch.rendezvous=127.0.0.1:{hold_ports()}", *extra]


@pytest.mark.slow
def test_two_launchers_train_one_run_and_a_signal_to_one_saves_and_stops_both(tmp_path: Path, sample: Path) -> None:
    folder = RunFolder(tmp_path / "both")
    given = command(tmp_path, sample)
    machines = [start(*given, ENDLESS), start(*given, ENDLESS)]
    wait_for(lambda: last_step(folder.metrics) >= 2, machines[0])
    machines[1].terminate()
    ended = [end(machine) for machine in machines]
    assert [each.returncode for each in ended] == [EXIT_STOPPED, EXIT_STOPPED], ended
    stop = read(folder.events)[-1]
    assert stop["event"] == "stop" and read(folder.events)[0]["world_size"] == 2

    last = [start(*given, f"max_steps={stop['step'] + 2}") for _ in range(2)]
    ended = [end(machine) for machine in last]
    assert [each.returncode for each in ended] == [EXIT_OK, EXIT_OK], ended
    assert last_step(folder.metrics) == stop["step"] + 2 and not list(folder.path.glob("launch-*"))


@pytest.mark.slow
def test_machines_with_other_settings_are_refused_with_the_key(tmp_path: Path, sample: Path) -> None:
    given = command(tmp_path, sample, ENDLESS)
    ended = [end(machine) for machine in [start(*given, "seed=1"), start(*given, "seed=2")]]
    assert [each.returncode for each in ended] == [EXIT_USER_ERROR, EXIT_USER_ERROR], ended
    assert any("error: seed is " in each.stderr and "start the same command on every" in each.stderr for each in ended)
    assert not (tmp_path / "both").exists()


@pytest.mark.slow
def test_machines_that_do_not_meet_are_one_line() -> None:
    at = ["--nnodes=2", "--rdzv-backend=c10d", "--rdzv-id=x", f"--rdzv-endpoint=127.0.0.1:{hold_ports()}"]
    alone = [sys.executable, "-m", "launch.torchrun", *at, "--rdzv-conf=join_timeout=1", "--no-python", "true"]
    ended = subprocess.run(alone, cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == EXIT_USER_ERROR
    assert ended.stderr.startswith("error: the machines did not meet") and ended.stderr.count("\n") == 1
