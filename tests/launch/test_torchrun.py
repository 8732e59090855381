"""torchrun as a launch starts it: what it leaves behind when it is killed is gone after the next start."""

import os
import subprocess
import sys
from pathlib import Path

import psutil

from tests.launch.launching import ROOT, wait_for


def torchrun(temporary: Path, *command: str) -> subprocess.Popen[bytes]:
    arguments = ["-m", "launch.torchrun", "--standalone", "--nproc-per-node=1", "--no-python", *command]
    environment = {**os.environ, "TMPDIR": str(temporary), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, *arguments], cwd=ROOT, env=environment)


def test_a_killed_torchrun_leaves_nothing_that_the_next_one_does_not_delete(tmp_path: Path) -> None:
    killed = torchrun(tmp_path, "sleep", "600")
    wait_for(lambda: psutil.Process(killed.pid).children(), None)
    [rank] = psutil.Process(killed.pid).children()
    killed.kill()
    killed.wait()
    rank.kill()
    assert len(list(tmp_path.iterdir())) == 1
    assert torchrun(tmp_path, "true").wait() == 0
    assert list(tmp_path.iterdir()) == []
