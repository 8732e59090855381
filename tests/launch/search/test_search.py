"""`python -m launch sweep=FILE` with a space, as a person types it."""

import signal
import sys
from pathlib import Path

import pytest

from launch.__main__ import launch_search, main
from report.overview import overview
from report.run_folder import RunFiles
from tests.launch.launching import SMALL, end, launch, read, start, wait_for
from train.compose.search import compose_search
from train.errors import EXIT_OK, EXIT_STOPPED, EXIT_USER_ERROR, TrainError

SPACE = """
search: {trials: 6, rungs: [2], reduction: 3}
space:
  optimizer.lr: {low: 1.0e-4, high: 1.0e-2, log: true}
  optimizer.repo_lr_multiplier: [1, 3]
"""
BRIEF = ("launch.processes=1", "max_steps=4", "checkpoint.export_hf=false")
TRIALS = [f"s-mine-trial-{number:03d}" for number in range(6)]


@pytest.fixture
def given(tmp_path: Path, sample: Path) -> list[str]:
    (tmp_path / "mine.yaml").write_text(SPACE)
    own = [f"sweep={tmp_path / 'mine.yaml'}", "name=s", f"run_root={tmp_path / 'runs'}", f"data.root={sample}"]
    return [*SMALL, *BRIEF, *own]


def starts(folder: Path) -> list[tuple[str, int]]:
    """Returns the starts and resumes of a run, with their steps."""
    events = read(folder / "events.jsonl")
    return [(event["event"], event["step"]) for event in events if event["event"] in ("start", "resume")]


def test_a_dry_run_prints_the_command_of_every_trial_and_writes_nothing(
    given: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["launch", *given, "launch.search.trials=12", "--dry-run"])
    assert main() == EXIT_OK
    *commands, rest = capsys.readouterr().out.splitlines()
    assert [line.split()[-3:] for line in commands] == [
        [f"name=s-mine-trial-{number:03d}", "stop_step=2", "wandb.group=s-mine"] for number in range(10)
    ]
    assert rest == "# the points of trials 10 to 11 follow from the losses of those before"
    assert not (tmp_path / "runs").exists()


def test_a_search_without_optuna_says_how_to_install_it(given: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith(("launch.search.", "optuna"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(TrainError, match=r"a search needs Optuna, .* pip install -c constraints.txt -e '.\[search\]'"):
        launch_search(compose_search(given), is_dry=True)


def test_a_sweep_file_is_written_only_of_a_search(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["launch", "sweep=schemes", "experiment=demo", "--wandb-sweep", "sweep.yaml"])
    assert main() == EXIT_USER_ERROR
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: --wandb-sweep FILE writes the search of a sweep=NAME")


@pytest.mark.slow
def test_two_launchers_one_of_them_killed_and_started_again_do_each_trial_once(
    given: list[str], tmp_path: Path
) -> None:
    root = tmp_path / "runs"
    one, other = start(*given), start(*given)
    wait_for(lambda: len(list(root.glob("s-mine-trial-*/metrics.jsonl"))) >= 2, one)
    one.kill()
    one.communicate()
    again, ended = end(start(*given)), end(other)
    assert (again.returncode, ended.returncode) == (EXIT_OK, EXIT_OK), again.stderr + ended.stderr
    folders = sorted(path for path in root.iterdir() if "-trial-" in path.name)
    assert [folder.name for folder in folders] == TRIALS
    finished = 0
    for folder in folders:
        rows, kinds = RunFiles(folder).read_metrics(), starts(folder)
        assert kinds.count(("start", 0)) >= 1 and [row["step"] for row in rows] in ([1, 2], [1, 2, 3, 4])
        ends = [event["reason"] for event in read(folder / "events.jsonl") if event["event"] == "stop"]
        assert ends.count("stop_step") == 1 and ends.count("finished") == (len(rows) == 4)
        finished += len(rows) == 4
        if len(rows) == 4:
            assert ("resume", 2) in kinds
    assert finished == 2
    table = (root / "s-mine-search/trials.csv").read_text().splitlines()
    assert len(table) == 7 and [line.split(",")[1] for line in table[1:]] == ["complete"] * 2 + ["pruned"] * 4
    assert (root / "s-mine-compared.html").exists()
    assert sorted(overview(RunFiles(folder)).state for folder in folders) == ["finished"] * 2 + ["pruned"] * 4
    before = [starts(folder) for folder in folders]
    done = launch(*given)
    assert done.returncode == EXIT_OK and done.stdout.startswith("s-mine: 6 trials, 6 of them done")
    assert "\nbest: s-mine-trial-00" in done.stdout and "name=NEW init_from=" in done.stdout
    assert [starts(folder) for folder in folders] == before


@pytest.mark.slow
def test_ctrl_c_saves_the_trial_and_a_trial_that_fails_ends_no_other(given: list[str], tmp_path: Path) -> None:
    space = "search: {trials: 3}\nspace: {micro_batch_size: [4, 3, 2]}\n"  # 3 does not divide the batch
    (tmp_path / "mine.yaml").write_text(f"{space}first: [{{micro_batch_size: 4}}, {{micro_batch_size: 3}}]\n")
    root = tmp_path / "runs"
    kept = [argument for argument in given if not argument.startswith(("micro_batch_size=", "max_steps="))]
    longer = [*kept, "max_steps=60", "evaluation.interval=null"]
    cut = start(*longer)
    wait_for(lambda: read(root / TRIALS[0] / "metrics.jsonl"), cut)
    cut.send_signal(signal.SIGINT)
    stopped = end(cut)
    assert stopped.returncode == EXIT_STOPPED and "the same command does what is left" in stopped.stdout
    rest = launch(*longer)
    assert rest.returncode == EXIT_USER_ERROR and f"error: {TRIALS[1]} ended with code 2" in rest.stderr
    assert [kind for kind, _ in starts(root / TRIALS[0])] == ["start", "resume"]
    rows = [line.split(",") for line in (root / "s-mine-search/trials.csv").read_text().splitlines()[1:]]
    assert sorted((row[0], row[1]) for row in rows) == [
        (TRIALS[0], "complete"),
        (TRIALS[1], "failed"),
        (TRIALS[2], "complete"),
    ]
