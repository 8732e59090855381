"""A sweep that is cut off, started again, extended and run in parallel: nothing is trained twice, nothing is lost."""

import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from launch import sweep
from launch.kept_names import with_kept_names
from report.run_folder import Holder
from tests.launch.launching import ENDLESS, SMALL, end, last_step, launch, ranks_of, read, start, wait_for
from train.compose.app import load_run_config, save_run_config
from train.compose.sweep import compose_members
from train.errors import EXIT_ALERTED, EXIT_OK, EXIT_STOPPED, EXIT_USER_ERROR
from train.run_folder import RunFolder
from train.signals import stop_signals

BRIEF = ("launch.processes=1", "max_steps=3", "checkpoint.export_hf=false", "evaluation.enabled=false")
WATCHED = ("position_watch.interval=1", "position_watch.policy=stop")

pytestmark = pytest.mark.system


def arguments(root: Path, sample: Path, *extra: str) -> list[str]:
    return [*SMALL, *BRIEF, *WATCHED, f"run_root={root}", f"data.root={sample}", "name=rates", *extra]


@pytest.fixture
def own_signals() -> Iterator[None]:
    """Puts back the handlers of signals that a sweep in this process replaces."""
    before = {number: signal.getsignal(number) for number in stop_signals()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def events(folder: RunFolder) -> list[str]:
    return [event["event"] for event in read(folder.events)]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sweeps")


@pytest.fixture(scope="module")
def folders(root: Path) -> list[RunFolder]:
    """The runs of `extended`; the last one ends with an alert."""
    return [RunFolder(root / f"rates-optimizer.lr_{rate}") for rate in ("0.001", "0.002", "0.4")]


@pytest.fixture(scope="module")
def extended(root: Path, sample: Path) -> subprocess.CompletedProcess[str]:
    """Two rates at once, one of which is then named again beside a third, in turn; how that ended."""
    command = arguments(root, sample, "-m")
    both = launch(*command, "optimizer.lr=1e-3,2e-3", "launch.parallel=2")
    assert both.returncode == EXIT_OK, both.stderr
    assert "best: rates-optimizer.lr_0.00" in both.stdout and "name=NEW init_from=" in both.stdout
    return launch(*command, "optimizer.lr=2e-3,0.4")


@pytest.mark.usefixtures("extended")
def test_members_differ_in_what_is_swept_and_each_trains_once(root: Path, folders: list[RunFolder]) -> None:
    assert sorted(root.glob("rates-optimizer*")) == [folder.path for folder in folders]
    assert [load_run_config(folder.config).optimizer.lr for folder in folders] == [1e-3, 2e-3, 0.4]
    rows = [read(folder.metrics)[0] for folder in folders]
    assert len({row["train/loss"] for row in rows}) == 1
    assert [row["optim/lr"] / rows[0]["optim/lr"] for row in rows] == pytest.approx([1, 2, 400])
    assert [events(folder).count("start") for folder in folders] == [1, 1, 1]
    assert (root / "rates-lr-compared.html").exists()
    assert "rates-optimizer.lr_0.001 is finished" in (folders[0].path / "console.log").read_text()
    assert not (folders[2].path / "console.log").exists()


def test_a_sweep_ends_with_the_worst_code_and_compares_its_members(
    extended: subprocess.CompletedProcess[str], folders: list[RunFolder]
) -> None:
    assert extended.stdout.startswith("rates-lr: 2 runs, 1 of them finished\n")
    assert [read(folder.events)[-1]["exit_code"] for folder in folders] == [EXIT_OK, EXIT_OK, EXIT_ALERTED]
    assert extended.returncode == EXIT_ALERTED
    assert f"{folders[2].path.name} ended with code {EXIT_ALERTED}; alone: " in extended.stderr
    compared = [line.split()[0] for line in extended.stdout.splitlines()[-4:-1]]
    assert compared[0] == "run" and sorted(compared[1:]) == [folder.path.name for folder in folders[1:]]
    assert "best: " not in extended.stdout  # one of them is not finished


def test_an_alert_that_stops_a_job_has_an_exit_code_of_its_own(
    extended: subprocess.CompletedProcess[str], folders: list[RunFolder]
) -> None:
    assert extended.returncode == EXIT_ALERTED and "Traceback" not in extended.stderr
    *_, alert, checkpoint, stop = read(folders[2].events)
    assert (alert["event"], checkpoint["event"], stop["event"]) == ("alert", "checkpoint", "stop")
    assert f"alert at step {alert['step']}: {alert['message']}" in extended.stdout
    stopped = f"{folders[2].path.name} is stopped after step {stop['step']}, because of an alert: see "
    assert stopped in extended.stdout


@pytest.mark.usefixtures("extended")
def test_a_finished_member_with_another_config_is_refused_before_anything_starts(
    root: Path, sample: Path, folders: list[RunFolder]
) -> None:
    refused = launch(*arguments(root, sample, "-m"), "optimizer.lr=8e-3,1e-3", "optimizer.weight_decay=0")
    assert (refused.returncode, refused.stdout) == (EXIT_USER_ERROR, "")
    line = (
        f"error: {folders[0].path} is finished with another config (optimizer.weight_decay was 0.1, is 0.0): set name="
    )
    assert refused.stderr.startswith(line) and refused.stderr.count("\n") == 1
    assert not list(root.glob("*0.008*"))


def names_in(root: Path, sample: Path, *swept: str) -> list[str]:
    """Returns the names of the members of a sweep, in their order."""
    members = compose_members(arguments(root, sample, "-m", *swept))
    return [member.config.name for member in with_kept_names(members)]


@pytest.mark.usefixtures("extended")
def test_a_sweep_extended_by_a_key_keeps_the_names_of_what_is_there(root: Path, sample: Path) -> None:
    first, second = "rates-optimizer.lr_0.001", "rates-optimizer.lr_0.002"
    new = [f"{first}-seed_43", f"{second}-seed_43"]
    rates = "optimizer.lr=1e-3,2e-3"
    assert names_in(root, sample, rates, "seed=42,43") == [first, new[0], second, new[1]]
    assert names_in(root, sample, "seed=42", rates) == [first, second]
    assert names_in(root, sample, "seed=42", rates, "name=again") == [
        name.replace("rates", "again") for name in (first, second)
    ]
    assert names_in(root, sample, "optimizer.lr=1e-3", "watchdog.step_seconds=500,550") == [
        f"rates-watchdog.step_seconds_{seconds}" for seconds in (500, 550)
    ]  # differs in nothing that a run learns from
    command = [*arguments(root, sample, "-m"), rates, "seed=42,43"]
    commands = launch(*command, "--dry-run").stdout.splitlines()
    assert [line.rpartition("name=")[2].partition(" ")[0] for line in commands] == new


def test_the_name_of_a_job_in_the_queue_is_kept_too(tmp_path: Path, sample: Path) -> None:
    [waiting] = compose_members(arguments(tmp_path, sample, "-m", "optimizer.lr=1e-3,2e-3"))[:1]
    save_run_config(waiting.config, RunFolder.of(waiting.config).slurm_config)
    names = names_in(tmp_path, sample, "seed=42,43", "optimizer.lr=1e-3")
    assert names == [waiting.config.name, "rates-seed_43"]


def test_ctrl_c_saves_the_member_that_runs_and_the_same_command_does_the_rest(root: Path, sample: Path) -> None:
    swept = [*arguments(root, sample, "-m", "name=cut", "seed=1,2", "position_watch.policy=warn")]
    folder, other = (RunFolder(root / f"cut-seed_{seed}") for seed in (1, 2))
    endless = start(*swept, ENDLESS)
    wait_for(lambda: last_step(folder.metrics) >= 1, endless)
    endless.send_signal(signal.SIGINT)
    ended = end(endless)
    assert ended.returncode == EXIT_STOPPED and not other.path.exists()
    assert events(folder)[-1] == "stop" and "the same command does what is left" in ended.stdout
    dry = launch(*swept, "--dry-run")
    assert dry.returncode == EXIT_OK and dry.stderr == ""
    commands = dry.stdout.splitlines()
    assert len(commands) == 2 and commands[1].endswith("seed=2 name=cut-seed_2 wandb.group=cut-seed")
    assert not other.path.exists()


@pytest.mark.slow  # a member stops as any run does whose launcher is killed
def test_a_killed_sweep_stops_its_members(root: Path, sample: Path) -> None:
    killed = start(*arguments(root, sample, "-m", "name=killed", "seed=1,2"), ENDLESS)
    folder = RunFolder(root / "killed-seed_1")
    wait_for(lambda: last_step(folder.metrics) >= 1, killed)
    [rank] = ranks_of(killed)
    killed.kill()
    killed.communicate()
    wait_for(lambda: not rank.is_running() and events(folder)[-1] == "stop", None)
    assert not (root / "killed-seed_2").exists()


@pytest.mark.usefixtures("own_signals")
def test_a_signal_while_a_member_ends_stops_the_sweep_too(
    tmp_path: Path, sample: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    members = compose_members(["-m", *arguments(tmp_path, sample, "name=ends", "seed=1,2")])
    asks = "import os, signal; os.kill(os.getppid(), signal.SIGTERM)"
    monkeypatch.setattr(sweep, "command", lambda member: [sys.executable, "-c", asks])
    assert sweep.run_sweep(members) == EXIT_STOPPED


@pytest.mark.usefixtures("own_signals")
def test_a_member_that_another_launch_trains_is_no_failure(
    tmp_path: Path, sample: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    members = compose_members(["-m", *arguments(tmp_path, sample, "name=taken", "seed=1,2")])
    taken, failed = (RunFolder.of(member.config) for member in members)
    taken.path.mkdir()
    waits = "import time; time.sleep(900)"
    monkeypatch.setattr(sweep, "command", lambda member: [sys.executable, "-c", "raise SystemExit(2)"])
    with subprocess.Popen([sys.executable, "-c", waits, "-m", "train"]) as other:
        try:
            taken.lock_file.write_text(Holder(other.pid, socket.gethostname()).text)
            assert sweep.run_sweep(members) == EXIT_USER_ERROR
        finally:
            other.kill()
    output = capsys.readouterr()
    assert f"{taken.path.name} was started by another launch" in output.out
    assert output.err.startswith(f"error: {failed.path.name} ended with code 2") and output.err.count("\n") == 1


@pytest.mark.usefixtures("own_signals")
def test_what_a_member_says_in_its_log_is_said_at_the_end(
    tmp_path: Path, sample: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    members = compose_members(["-m", *arguments(tmp_path, sample, "name=log", "seed=1,2", "launch.parallel=2")])
    monkeypatch.setattr(sweep, "command", lambda member: ["/bin/sh", "-c", "echo error: no room >&2; exit 74"])
    assert sweep.run_sweep(members) == 74
    assert "error: log-seed_1 ended with code 74 (error: no room); alone: " in capsys.readouterr().err
