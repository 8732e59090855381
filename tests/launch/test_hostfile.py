"""A run over ssh: DeepSpeed's launcher starts the ranks of a hostfile on an sshd of this machine alone."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from deepspeed.constants import TORCH_DISTRIBUTED_DEFAULT_PORT

from tests.launch.cluster import end_with_this_process
from tests.launch.launching import ENDLESS, HANG_SECONDS, ROOT, SMALL, last_step, read, wait_for
from tests.ports import alone_at, hold_ports
from train.errors import EXIT_OK, EXIT_STOPPED
from train.run_folder import RunFolder

SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
HAS_ALL = SSHD is not None and all(map(shutil.which, ("ssh", "ssh-keygen", "pdsh")))
SERVER = """
Port {port}
ListenAddress 127.0.0.1
HostKey {root}/key
AuthorizedKeysFile {root}/key.pub
PidFile none
StrictModes no
UsePAM no
PermitRootLogin prohibit-password
SetEnv OMP_NUM_THREADS=1
"""
CLIENT = """
Host *
  Port {port}
  IdentityFile {root}/key
  StrictHostKeyChecking no
  UserKnownHostsFile /dev/null
  LogLevel ERROR
"""


@contextmanager
def server(root: Path) -> Iterator[dict[str, str]]:
    """Starts an sshd and yields the environment in which `ssh` finds it; ends it."""
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", root / "key"], check=True)
    names = {"root": root, "port": hold_ports()}
    (root / "sshd_config").write_text(SERVER.format(**names))
    (root / "ssh_config").write_text(CLIENT.format(**names))
    (root / "bin").mkdir()
    (root / "bin/ssh").write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F {root}/ssh_config "$@"\n')
    (root / "bin/ssh").chmod(0o755)
    Path("/run/sshd").mkdir(exist_ok=True)
    command = [str(SSHD), "-D", "-e", "-f", str(root / "sshd_config")]
    daemon = subprocess.Popen(command, stderr=subprocess.DEVNULL, preexec_fn=end_with_this_process)
    environment = {**os.environ, "PATH": f"{root / 'bin'}:{os.environ['PATH']}", "CUDA_VISIBLE_DEVICES": ""}
    try:
        wait_for(lambda: subprocess.run(["ssh", "localhost", "true"], env=environment).returncode == 0, None)
        yield environment
    finally:
        daemon.terminate()
        daemon.wait()


@pytest.mark.slow
@pytest.mark.skipif(not HAS_ALL or os.geteuid() != 0, reason="needs root, openssh-server and pdsh")
def test_a_hostfile_starts_a_run_over_ssh_which_ctrl_c_and_stop_save(tmp_path: Path, sample: Path) -> None:
    (tmp_path / "hosts").write_text("# this machine, twice\nlocalhost slots=1\n127.0.0.1 slots=1\n")
    folder = RunFolder(tmp_path / "remote")
    where = [f"run_root={tmp_path}", f"data.root={sample}", "name=remote", ENDLESS]
    less = ["checkpoint.export_hf=false", "evaluation.enabled=false"]
    hosts = ["launch=nodes", f"launch.hostfile={tmp_path / 'hosts'}"]
    launch = [sys.executable, "-m", "launch"]
    with (
        server(tmp_path) as environment,
        alone_at(TORCH_DISTRIBUTED_DEFAULT_PORT),
    ):  # DeepSpeed's launcher takes no other
        for number, stop in enumerate(("signal", "verb"), 1):
            job = subprocess.Popen(
                [*launch, *SMALL, *where, *less, *hosts],
                cwd=ROOT,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            begun = last_step(folder.metrics)
            wait_for(lambda begun=begun: last_step(folder.metrics) >= begun + 2, job)  # type: ignore[misc]
            if stop == "signal":
                job.terminate()
            else:
                asked = subprocess.run([*launch, "stop", folder.path], cwd=ROOT, env=environment)
                assert asked.returncode == EXIT_OK
            out, _ = job.communicate(timeout=HANG_SECONDS)
            assert job.returncode == EXIT_STOPPED, out
            events = read(folder.events)
            assert events[0]["world_size"] == 2 and [event["event"] for event in events].count("stop") == number
