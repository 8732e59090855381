"""`python -m launch status`, `compare` and `stop`, as a person types them."""

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from launch.runs import VERBS, main, pause
from tests.launch.launching import ENDLESS, ROOT, SMALL, end, last_event, last_step, read, start, wait_for
from tests.report.folders import make_run
from train.errors import EXIT_OK, EXIT_STOPPED, EXIT_USER_ERROR
from train.run_folder import RunFolder


def verb(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "launch", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


@pytest.mark.system
def test_a_run_is_listed_while_it_trains_and_stopped_by_its_name(tmp_path: Path, sample: Path) -> None:
    folder = RunFolder(tmp_path / "long")
    settings = ["name=long", f"run_root={tmp_path}", f"data.root={sample}", "launch.processes=1", ENDLESS]
    running = start(*SMALL, *settings, "evaluation.enabled=false")
    wait_for(lambda: last_step(folder.metrics) >= 2, running)
    listed = verb("status", tmp_path)
    assert listed.returncode == EXIT_OK and re.search(r"^long +running +\d+/100000 ", listed.stdout, re.MULTILINE)
    stopped = verb("stop", folder.path)
    ended = end(running)
    assert (stopped.returncode, ended.returncode) == (EXIT_OK, EXIT_STOPPED), stopped.stderr + ended.stderr
    assert last_event(folder.events) == "stop" and read(folder.events)[-1]["step"] == last_step(folder.metrics)
    assert f"its newest checkpoint is of step {last_step(folder.metrics)}" in stopped.stdout
    again = verb("stop", folder.path)
    assert again.returncode == EXIT_USER_ERROR and "nothing trains" in again.stderr and again.stderr.count("\n") == 1
    assert re.search(r"^long +stopped ", verb("status", tmp_path).stdout, re.MULTILINE)


def test_runs_are_compared_on_the_screen_as_csv_and_as_a_page(tmp_path: Path) -> None:
    for name in ("one", "two"):
        make_run(tmp_path / "runs" / name, range(1, 30))
    done = verb("compare", tmp_path / "runs", "--csv", tmp_path / "t.csv", "--page", tmp_path / "page.html")
    assert (done.returncode, done.stderr) == (EXIT_OK, "")
    assert {"one", "two"} == {line.split(",")[0] for line in (tmp_path / "t.csv").read_text().splitlines()[1:]}
    assert "<title>page</title>" in (tmp_path / "page.html").read_text()
    (tmp_path / "runs" / "one-compared.html").touch()  # what a shell puts in place of runs/*
    (tmp_path / "runs" / "one-search").mkdir()
    assert done.stdout == verb("compare", *(tmp_path / "runs").iterdir()).stdout + (
        f"table: {tmp_path / 't.csv'}\npage: {tmp_path / 'page.html'}\n"
    )


def test_a_mistake_is_one_line(tmp_path: Path) -> None:
    one = make_run(tmp_path / "one", range(1, 3)).path
    mistakes: list[list[str | Path]] = [
        ["status", tmp_path / "absent"],
        ["compare", one],
        ["compare", one, tmp_path / "absent"],
        ["compare", one, one],
        ["stop", tmp_path / "absent"],
        ["stop", one],
    ]
    for arguments in mistakes:
        wrong = verb(*arguments)
        assert (wrong.returncode, wrong.stdout) == (EXIT_USER_ERROR, ""), arguments
        assert wrong.stderr.startswith("error: ") and wrong.stderr.count("\n") == 1


def test_a_run_below_the_default_folder_is_known_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main("status", []) == EXIT_USER_ERROR
    assert "there is no run in runs: start one with `python -m launch" in capsys.readouterr().err
    for name in ("one", "two"):
        make_run(tmp_path / "runs" / name, range(1, 30))
    assert main("status", ["one"]) == EXIT_OK and re.search(r"^one +", capsys.readouterr().out, re.MULTILINE)
    assert main("compare", ["one", "runs/two"]) == EXIT_OK
    for name, line in (("one", "nothing trains runs/one:"), ("three", "there is no run folder three:")):
        assert main("stop", [name]) == EXIT_USER_ERROR and line in capsys.readouterr().err
    make_run(tmp_path / "one", range(1, 3))
    assert main("stop", ["one"]) == EXIT_USER_ERROR
    assert "nothing trains one:" in capsys.readouterr().err, "a folder as typed comes first"


@pytest.mark.parametrize("name", VERBS)
def test_help_shows_examples_of_its_verb(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(name, ["--help"])
    examples = capsys.readouterr().out.partition("\nexamples:\n")[2].splitlines()
    assert examples and all(line.startswith(f"  python -m launch {name} ") for line in examples)


@pytest.mark.parametrize("option", ["--csv", "--page"])
def test_a_file_in_a_folder_that_is_absent_is_refused_before_the_work(
    option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [str(make_run(tmp_path / name, range(1, 30)).path) for name in ("one", "two")]
    absent = tmp_path / "absent"
    assert main("compare", [*runs, option, str(absent / "x")]) == EXIT_USER_ERROR
    said = capsys.readouterr()
    assert said.out == "" and f"there is no folder {absent}; make it with mkdir -p {absent}" in said.err


def test_a_list_can_be_printed_again_and_again(tmp_path: Path) -> None:
    make_run(tmp_path / "one", range(1, 3))
    command = [sys.executable, "-m", "launch", "status", "--watch", "--seconds", "0.5", str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as watching:
        assert watching.stdout is not None
        seen = [line for line in (next(watching.stdout) for _ in range(6)) if line.startswith("one ")]
        watching.send_signal(signal.SIGTERM)
    assert len(seen) == 2


def test_a_list_of_runs_and_what_would_run_need_no_torch(tmp_path: Path) -> None:
    make_run(tmp_path / "one", range(1, 3))
    verbs = [["status", str(tmp_path)], ["experiment=demo", "launch=slurm", "--dry-run"]]
    code = (
        "import sys\n"
        "from launch.__main__ import main\n"
        f"for arguments in {verbs!r}:\n"
        "    sys.argv = ['launch', *arguments]\n"
        "    assert main() == 0 and not {'torch', 'plotly', 'numpy', 'deepspeed'} & set(sys.modules), arguments"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True)


@pytest.mark.parametrize(("given", "waits"), [(5, 5), (0, 0.5), (-1, 0.5), (float("nan"), 0.5), (float("inf"), 86400)])
def test_a_watch_waits_for_a_time_that_can_be_waited(given: float, waits: float) -> None:
    assert pause(given) == waits
