"""A run folder has one owner, and is free when that process has ended; a folder that cannot be written is one line."""

import errno
import fcntl
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from train.errors import TrainError
from train.run_folder import RunFolder, explained_write_errors

ROOT = Path(__file__).parents[2]
HOLDER = """
import os, sys, time
from train.run_folder import RunFolder
lock = RunFolder(sys.argv[1]).lock()
child = os.fork()
if child:
    print(os.getpid(), child, flush=True)
time.sleep(600)
"""
WRITER = """
import sys
from train.errors import TrainError
from train.run_folder import RunFolder
try:
    RunFolder(sys.argv[1]).lock()
except TrainError as error:
    print(error)
"""


def in_a_mount_of_its_own(mount: str, *command: str) -> subprocess.CompletedProcess[str]:
    """Runs a command after `mount`, which no other process sees and which ends with it."""
    allowed = subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode == 0
    if not allowed:
        pytest.skip("mounting needs root")
    script = f'{mount} && exec "$@"'
    return subprocess.run(
        ["unshare", "--mount", "sh", "-c", script, "sh", *command],
        cwd=ROOT,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=900,
    )


def test_the_folder_of_a_killed_owner_is_free_at_once_whatever_it_forked(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    command = [sys.executable, "-c", HOLDER, str(folder.path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        pid, child = map(int, holder.stdout.readline().split())
        try:
            assert folder.is_in_use()
            with pytest.raises(TrainError, match=f"is in use by process {pid} on ") as caught:
                folder.lock()
            assert "\n" not in str(caught.value)
            holder.kill()
            holder.wait()
            os.kill(child, 0)  # a data worker, say, that has not noticed yet
            assert not folder.is_in_use()
            folder.lock().close()
        finally:
            os.kill(child, signal.SIGKILL)


def test_what_killed_launchers_left_is_deleted_and_nothing_of_a_live_one(tmp_path: Path) -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    host = socket.gethostname()
    names = [f"launch-{host}-{ended.pid}", f"launch-{host}-{os.getpid()}", "launch-other-5", "launch-old-5", "launch-x"]
    paths = [tmp_path / f"{name}.yaml" for name in names]
    for path in paths:
        path.touch()
    os.utime(paths[3], (0, 0))
    os.utime(paths[1], (0, 0))  # a launcher lives as long as its run
    RunFolder(tmp_path).lock().close()
    assert [path.exists() for path in paths] == [False, True, True, False, True]


def test_a_folder_in_which_no_run_began_is_deleted_and_any_other_stays(tmp_path: Path) -> None:
    unused, used, held = (RunFolder(tmp_path / name) for name in ("unused", "used", "held"))
    unused.lock().close()
    used.lock().close()
    used.config.touch()
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(held.path)], cwd=ROOT, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        _, child = map(int, holder.stdout.readline().split())
        for folder in (unused, used, held, RunFolder(tmp_path / "absent")):
            folder.remove_if_unused()
        holder.kill()
        os.kill(child, signal.SIGKILL)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["held", "used"]


def test_a_lock_file_that_is_deleted_before_it_is_locked_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, lock_file = RunFolder(tmp_path / "run"), fcntl.lockf

    def deleted_meanwhile(*arguments: object) -> None:
        monkeypatch.setattr(fcntl, "lockf", lock_file)
        folder.lock_file.unlink()
        folder.path.rmdir()
        lock_file(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(fcntl, "lockf", deleted_meanwhile)
    with folder.lock():
        second = [sys.executable, "-c", WRITER, str(folder.path)]
        said = subprocess.run(second, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert said.startswith(f"{folder.path} is in use by process {os.getpid()} on ")


def test_a_read_only_folder_is_one_line(tmp_path: Path) -> None:
    mount = f"mount -t tmpfs -o ro,size=64k tmpfs {tmp_path}"
    ended = in_a_mount_of_its_own(mount, sys.executable, "-c", WRITER, str(tmp_path / "run"))
    assert ended.stdout == (
        f"cannot write in {tmp_path / 'run'} (Read-only file system): set run_root to another folder\n"
    ), ended.stderr


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.ENOSPC, "No space left on device): free disk space there, or set run_root to another folder"),
        (errno.EACCES, "Permission denied): make it writable for you, or set run_root to another folder"),
        (errno.EEXIST, "File exists): a part of this path is a file; set run_root to another folder"),
        (errno.EIO, "Input/output error): set run_root to another folder"),
    ],
)
def test_the_advice_fits_what_writing_met(tmp_path: Path, number: int, advice: str) -> None:
    with pytest.raises(TrainError) as caught, explained_write_errors(tmp_path):
        raise OSError(number, os.strerror(number))
    assert str(caught.value) == f"cannot write in {tmp_path} ({advice}"


def test_a_folder_that_was_deleted_under_a_run_is_locked_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.keep_locked()
    assert not folder.path.exists()  # it had no lock
    with folder.lock():
        folder.keep_locked()
        assert not caplog.messages
        shutil.rmtree(folder.path)
        folder.keep_locked()
        assert f"{folder.path} was deleted while the run was in it" in caplog.text
        command = [sys.executable, "-c", WRITER, str(folder.path)]
        other = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        assert "is in use by" in other.stdout


def test_a_name_that_another_run_has_taken_ends_the_first(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    with folder.lock():
        shutil.rmtree(folder.path)
        command = [sys.executable, "-c", HOLDER, str(folder.path)]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as holder:
            assert holder.stdout is not None
            pid, child = map(int, holder.stdout.readline().split())
            try:
                with pytest.raises(TrainError, match=f"is in use by .*{pid}"):
                    folder.keep_locked()
            finally:
                os.kill(pid, signal.SIGKILL)
                os.kill(child, signal.SIGKILL)
