"""The report of a run that goes on: written beside it, never by it."""

import subprocess
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from report.run_folder import RunFiles
from tests.report.folders import make_run
from tests.train.tiny import tiny
from train.callbacks.build import build_callbacks
from train.callbacks.report import Report
from train.errors import Stop, StopReason

FINISHED = Stop(StopReason.finished)


def stand_in(folder: RunFiles) -> Any:
    """The parts of a trainer that the report reads."""
    return SimpleNamespace(folder=folder)


def test_the_page_is_written_while_the_run_goes_on_and_printed_at_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_run(tmp_path / "run", range(1, 4))
    popen, go, begun = subprocess.Popen, tmp_path / "go", []

    def popen_on_go(command: list[str], **options: Any) -> Any:
        begun.append(command)
        return popen(
            ["sh", "-c", f"while [ ! -e '{go}' ]; do sleep 0.01; done; exec \"$@\"", "sh", *command], **options
        )

    monkeypatch.setattr(subprocess, "Popen", popen_on_go)
    report = Report(0.0)
    report.on_step_end(stand_in(folder))
    assert not folder.report.exists()  # the trainer has gone on by now
    report.on_step_end(stand_in(folder))  # one at a time
    assert len(begun) == 1
    go.touch()
    deadline = time.monotonic() + 600
    while not folder.report.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    first = folder.report.stat().st_ino
    report.on_stop(stand_in(folder), FINISHED)
    report.close()
    assert folder.report.stat().st_ino != first
    assert capsys.readouterr().out == f"report: {folder.report}\n"
    assert [path.name for path in folder.path.glob(".report*")] == []


def test_a_page_is_due_every_so_many_seconds(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", range(1, 4))
    report = Report(1000.0)
    report.on_step_end(stand_in(folder))
    first = report._process
    assert first is not None and first.wait(timeout=600) == 0
    report.on_step_end(stand_in(folder))
    assert report._process is first
    report.close()


def test_pages_have_the_lowest_priority_during_a_run_and_the_usual_one_at_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[list[str]] = []

    def start(command: list[str], **_: Any) -> Any:
        started.append(command)
        return SimpleNamespace(poll=lambda: 0, communicate=lambda timeout: ("", ""), returncode=0)

    monkeypatch.setattr(subprocess, "Popen", start)
    report = Report(0.0)
    report.on_step_end(stand_in(RunFiles(tmp_path)))
    report.on_stop(stand_in(RunFiles(tmp_path)), FINISHED)
    assert [command[-1] for command in started] == ["--nice", str(tmp_path)]


def test_a_report_that_fails_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = make_run(tmp_path / "run", range(0))
    report = Report(60.0)
    report.on_stop(stand_in(folder), FINISHED)
    [record] = caplog.records
    assert record.message.startswith("the report could not be written: error: ")
    assert "holds no complete line" in record.message


def test_no_process_is_left_after_a_crashed_run(tmp_path: Path) -> None:
    report = Report(60.0)
    report.on_step_end(stand_in(make_run(tmp_path / "run", range(1, 4))))
    report.close()
    assert report._process is not None and report._process.returncode is not None


def test_a_run_that_wants_no_page_has_no_report(tmp_path: Path) -> None:
    def has_report(seconds: float | None) -> bool:
        return any(
            isinstance(callback, Report)
            for callback in build_callbacks(tiny(tmp_path, logging__report_seconds=seconds))
        )

    assert has_report(60.0) and not has_report(None)
