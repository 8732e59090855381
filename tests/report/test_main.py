"""python -m report: a page for each run, and one line for each mistake."""

import subprocess
import sys
from pathlib import Path

from tests.report.folders import make_run


def command(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "report", *map(str, arguments)], capture_output=True, text=True)


def test_a_page_is_written_where_the_command_says(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", range(1, 4))
    done = command(folder.path, "--out", tmp_path / "page.html")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"report: {tmp_path / 'page.html'}\n", "")
    page = (tmp_path / "page.html").read_text()
    assert "https://" not in page.split("<script>")[0] and not folder.report.exists()


def test_each_of_several_runs_gets_its_page(tmp_path: Path) -> None:
    folders = [make_run(tmp_path / name, range(1, 4)) for name in ("one", "two")]
    done = command(*(folder.path for folder in folders))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "".join(f"report: {folder.report}\n" for folder in folders)
    assert [f"<title>{folder.path.name}</title>" in folder.report.read_text() for folder in folders] == [True, True]


def test_a_mistake_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", range(1, 4)).path
    for arguments in ([tmp_path / "none"], [run, "--out", tmp_path / "none" / "page.html"], [run, run, "--out", "x"]):
        wrong = command(*arguments)
        assert wrong.returncode == 2 and wrong.stdout == ""
        assert wrong.stderr.startswith("error: ") and wrong.stderr.count("\n") == 1


def test_a_run_without_a_page_does_not_keep_the_others_from_theirs(tmp_path: Path) -> None:
    first, last = (make_run(tmp_path / name, range(1, 4)) for name in ("first", "last"))
    done = command(first.path, tmp_path / "absent", last.path)
    assert done.returncode == 2
    assert done.stdout == f"report: {first.report}\nreport: {last.report}\n"
    assert done.stderr.startswith("error: ") and "absent" in done.stderr and done.stderr.count("\n") == 1


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", range(1, 4)).path
    done = command(run, "--out", tmp_path / "none" / "page.html")
    problem = f"error: cannot write in {tmp_path / 'none'} (No such file or directory); correct --out\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", problem)


def test_a_page_is_written_without_torch_or_the_training_code(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", range(1, 4))
    code = (
        "import sys\n"
        f"sys.argv = ['report', {str(folder.path)!r}]\n"
        "from report.__main__ import main\n"
        "import report.panels, report.pictures\n"
        "assert main() == 0\n"
        "print(sorted({'torch', 'train', 'data', 'deepspeed'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == f"report: {folder.report}\n[]\n", done.stderr
