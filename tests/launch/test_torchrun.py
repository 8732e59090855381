"""torchrun as a launch starts it: it passes on the first request to stop, says what killed a rank, and tidies up."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.launch.launching import ROOT, end, wait_for

pytestmark = pytest.mark.system

KILLED_WHEN_ASKED = """
trap '(while kill -USR1 $PPID; do sleep 0.02; done) >/dev/null 2>&1 & kill -KILL $$' TERM  # asked until it ends
touch "$1"
while :; do sleep 0.1; done
"""


def torchrun(temporary: Path, *worker: str) -> subprocess.Popen[str]:
    arguments = ["-m", "launch.torchrun", "--standalone", "--nproc-per-node=1", "--no-python", *worker]
    environment = {**os.environ, "TMPDIR": str(temporary), "OMP_NUM_THREADS": "1"}
    command = (sys.executable, *arguments)
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_a_killed_torchrun_leaves_nothing_after_the_next_one_which_says_what_killed_a_rank(tmp_path: Path) -> None:
    temporary, started = tmp_path / "temporary", tmp_path / "started"
    temporary.mkdir()
    (tmp_path / "worker.sh").write_text(KILLED_WHEN_ASKED)
    killed = torchrun(temporary, "sleep", "600")
    wait_for(lambda: psutil.Process(killed.pid).children(), None)
    [rank] = psutil.Process(killed.pid).children()
    killed.kill()
    killed.wait()
    rank.kill()
    assert len(list(temporary.iterdir())) == 1

    asked = torchrun(temporary, "sh", str(tmp_path / "worker.sh"), str(started))
    wait_for(started.exists, asked)
    asked.terminate()
    ended = end(asked)
    assert ended.returncode == 128 + signal.SIGKILL
    assert ended.stderr.splitlines()[-1] == "error: rank 0 was ended by SIGKILL: look for a lack of memory"
    assert list(temporary.iterdir()) == []
