"""Signals stop a verb with one line, and its command goes on. Progress is seen where there is no terminal."""

import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from evaluate.__main__ import main
from evaluate.verbs.sources import print_progress

ROOT = Path(__file__).parents[2]
COUNTS = {"probe": "num_samples=20", "attention": "num_samples=20", "perplexity": "num_documents=20"}


class Interrupting(io.StringIO):
    """Standard error that gets a Ctrl-C with the first line of progress."""

    def write(self, text: str) -> int:
        """Returns the length of the text, after the signal."""
        written = super().write(text)
        if self.getvalue().endswith("2/20\n"):
            os.kill(os.getpid(), signal.SIGINT)
        return written


@pytest.fixture
def interruptible() -> Iterator[None]:
    """A Ctrl-C interrupts, also where a shell has told its background jobs to ignore it, as the command does."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("verb", ["probe", "attention", "patterns", "ablate", "perplexity"])
def test_a_ctrl_c_is_one_line(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str) -> None:
    error = Interrupting()
    monkeypatch.setattr(sys, "stderr", error)
    needles = ["task=niah_single_1", "value_digits=2", "max_new_tokens=8"] if verb in ("probe", "attention") else []
    settings = ["length=400", COUNTS.get(verb, "num_texts=20"), *needles]
    assert main([verb, str(folder), *settings, "--out", str(tmp_path / "out")]) == 130
    *_, progress, said = error.getvalue().splitlines()
    assert progress.endswith("2/20") and said.startswith("stopped: ") and said.endswith("the same command goes on")


@pytest.mark.system
def test_a_probe_that_is_ended_has_its_table_and_goes_on(folder: Path, tmp_path: Path) -> None:
    out, settings = tmp_path / "out", ["task=copy,key_value", "length=200", "value_digits=2", "generate=false"]
    command = [sys.executable, "-m", "evaluate", "probe", str(folder), *settings, "--out", str(out)]
    with subprocess.Popen([*command, "num_samples=100000"], cwd=ROOT, stderr=subprocess.PIPE, text=True) as probe:
        rows = out / "copy-200.jsonl"
        while probe.poll() is None and not (rows.is_file() and rows.stat().st_size):
            time.sleep(0.05)
        probe.terminate()
        error = probe.communicate()[1]
    assert probe.returncode == 130 and error.count("\n") == 1
    done = len(rows.read_text().splitlines())
    assert error == f"stopped: {out} has {done} of 200000 samples, and table.md of them; the same command goes on\n"
    assert f"| copy | 200 | {done} |" in (out / "table.md").read_text()
    assert main(["probe", str(folder), *settings, "--out", str(out), f"num_samples={done + 1}"]) == 0
    assert len(rows.read_text().splitlines()) == done + 1


def test_progress_is_a_line_for_each_tenth_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    for done in range(1, 501):
        print_progress("copy 64", done, 500)
    print_progress("copy 64", 1, 1)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [*(f"copy 64: {done}/500" for done in range(50, 501, 50)), "copy 64: 1/1"]
