"""What is proposed after a run: commands that work as they are printed."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from launch.__main__ import print_command, trained_with, twice_as_long
from launch.runs import best_run
from report.run_folder import RunFiles
from tests.composing import compose
from tests.launch.launching import ROOT
from train.compose.app import save_run_config
from train.run_folder import RunFolder

DEMO = "experiment=demo"


@pytest.mark.parametrize(
    ("more", "kept"),
    [
        (["optimizer.lr=1e-3"], ["optimizer.lr=1e-3"]),  # what it was trained with
        (["optimizer.lr=1e-3", "sequence_length=128", "seed=7"], ["optimizer.lr=1e-3"]),
        (["optimizer.lr=1e-3", "positions=rope", "wandb.tags=[a]"], ["optimizer.lr=1e-3", "wandb.tags=[a]"]),
        (["optimizer.lr=1e-3", "max_steps=60", "stop_step=30"], ["optimizer.lr=1e-3", "max_steps=60"]),
        ([], None),  # what it was trained with is not repeated
    ],
)
def test_a_finished_run_goes_on_only_with_what_it_was_trained_with(
    more: list[str], kept: list[str] | None, tmp_path: Path
) -> None:
    own = f"run_root={tmp_path}"
    trained = compose(DEMO, own, "optimizer.lr=1e-3")
    folder = RunFolder.of(trained)
    save_run_config(trained, folder.config)
    expected = None if kept is None else [DEMO, own, *kept]
    assert trained_with([DEMO, own, *more], compose(DEMO, own, *more), folder) == expected


def test_a_dry_run_names_the_file_that_its_command_reads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert print_command(compose(DEMO, f"run_root={tmp_path}", "launch.processes=1", "launch.cpu_processes=1")) == 0
    command, remark = capsys.readouterr().out.splitlines()
    assert remark == f"# would write {command.split()[-1]} for it, and delete that at the end"
    assert list(tmp_path.iterdir()) == []


def test_a_ctrl_c_while_python_imports_is_no_page_of_python(tmp_path: Path) -> None:
    (tmp_path / "psutil.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    command = [sys.executable, "-m", "launch", "status"]
    ended = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # the tests may run where it is ignored
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (-signal.SIGINT, "", "")


def test_the_best_of_several_runs_is_named_with_a_command_that_starts_from_it() -> None:
    given = [DEMO, "positions=nope", "name=demo-positions_nope", "init_from=runs/first", "wandb.group=demo-schemes"]
    lines = best_run(RunFiles(Path("runs/demo-positions_nope")), "eval loss 2.5000 with positions=nope", given)
    assert lines == [
        "best: demo-positions_nope, eval loss 2.5000 with positions=nope",
        "  start a run from its weights: python -m launch experiment=demo positions=nope name=NEW "
        "init_from=runs/demo-positions_nope",
    ]


@pytest.mark.parametrize(("decayed", "longer"), [(100, 200), (90, 190), (150, 200), (5000, 5000)])
def test_a_run_of_twice_the_steps_decays_to_its_end(decayed: int, longer: int) -> None:
    assert twice_as_long(100, decayed) == ["max_steps=200", f"schedule.decay_steps={longer}"]
