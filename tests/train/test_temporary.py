"""What libraries leave in the folder for temporary files is gone after the process, or after the next one's start."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.train.tiny import tiny
from train.callbacks.config import WandbMode
from train.compose.app import save_run_config
from train.run_folder import RunFolder
from train.temporary import PREFIX

ROOT = Path(__file__).parents[2]
HOLDER = """
import sys
from train.temporary import own_folder, remove_own_folder
(own_folder() / "socket").touch()
print(own_folder().name, flush=True)
sys.stdin.readline()
remove_own_folder()
"""
LOGGER = """
import os, sys
from pathlib import Path
from types import SimpleNamespace
import numpy as np
from train.callbacks import weights_and_biases
from train.compose.app import load_run_config
from train.distributed import leave
from train.run_folder import RunFolder
made = []
sys.addaudithook(lambda event, given: made.append(Path(given[0])) if event == "tempfile.mkdtemp" else None)
config = load_run_config(Path(sys.argv[1]))
callback = weights_and_biases.for_run(config)
callback.on_start(SimpleNamespace(folder=RunFolder.of(config), step=0))
def log(run):
    import wandb
    run.log({"image": wandb.Image(np.zeros((9, 9, 3), np.uint8))}, step=1)
    temporary = Path(os.environ["TMPDIR"])
    there = {*temporary.iterdir(), *(path for path in made if path.parent == temporary)}  # now, or a moment ago
    print(*sorted(path.name for path in there), flush=True)
    sys.stdin.readline()
callback._submit(log)
callback.on_stop(None, None)
leave(0)
"""


def start(temporary: Path, code: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(temporary), "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.fixture
def temporary() -> Iterator[Path]:
    """A folder with a short path, as sockets need it."""
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="t") as folder:
        yield Path(folder)


def line_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_folders_of_killed_processes_are_deleted_by_the_next_and_those_of_live_ones_stay(temporary: Path) -> None:
    with start(temporary, HOLDER) as killed, start(temporary, HOLDER) as alive:
        left, held = line_of(killed), line_of(alive)
        killed.kill()
        killed.wait()
        assert {path.name for path in temporary.iterdir()} == {left, held}  # a kill leaves everything
        with start(temporary, HOLDER) as following:
            assert {line_of(following), held} == {path.name for path in temporary.iterdir()}
            following.communicate("\n")
        [folder] = temporary.iterdir()
        assert folder.name == held and (folder / "socket").exists()
        alive.communicate("\n")
    assert list(temporary.iterdir()) == []


@pytest.mark.system
def test_what_wandb_needs_for_a_while_lies_in_the_folder_of_its_process(temporary: Path, tmp_path: Path) -> None:
    config = tiny(tmp_path, wandb__mode=WandbMode.offline)
    save_run_config(config, RunFolder.of(config).config)
    with start(temporary, LOGGER, str(RunFolder.of(config).config)) as process:
        while_logging = line_of(process)
        assert while_logging.startswith(PREFIX) and " " not in while_logging
        process.communicate("\n")
    assert process.returncode == 0 and list(temporary.iterdir()) == []
