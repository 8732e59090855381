"""Starts the ranks of all hosts of a hostfile over ssh, with DeepSpeed's launcher (pdsh).

DeepSpeed's launcher kills ranks thirty seconds after a signal, which is too short for a checkpoint. So a request to
stop goes to the rank that holds the run, over ssh; all ranks then save and end together.
"""

import subprocess
import sys
from pathlib import Path

from launch.local import Foreground
from launch.ranks import hosts_of, shape_of
from report.run_folder import RunFiles
from train.config import RunConfig
from train.run_folder import RunFolder


def over_ssh(config: RunConfig) -> Foreground:
    """Returns what starts the ranks of all hosts. Raises TrainError as `shape_of` does."""
    _, ranks = shape_of(config)
    folder = RunFolder.of(config)
    launcher = [sys.executable, "-m", "deepspeed.launcher.runner", f"--hostfile={config.launch.hostfile}"]
    how = ["--force_multi", "--quiet", "--no_local_rank", "--module"]
    command = [*launcher, *how, "train", "--config", str(folder.launch)]

    def ask(process: subprocess.Popen[bytes]) -> None:
        if not ask_over_ssh(next(iter(hosts_of(config))), folder):
            process.terminate()  # nothing has begun: DeepSpeed ends it on all hosts

    return Foreground(command, ranks, ask, lambda process: process.terminate())


def ask_over_ssh(host: str, files: RunFiles) -> bool:
    """Sends SIGTERM to the process on `host` that trains the run; returns whether there was one."""
    holder = files.holder()
    if holder is None:
        return False
    test = f"grep -qz '^train$' /proc/{holder.pid}/cmdline && kill -TERM {holder.pid}"
    return subprocess.run(["ssh", host, test], stdin=subprocess.DEVNULL, capture_output=True).returncode == 0


def first_host(config: dict[str, object]) -> str | None:
    """Returns the host whose ranks hold a run, from its plain config; None if it has no hostfile that can be read."""
    launch = config.get("launch")
    path = launch.get("hostfile") if isinstance(launch, dict) and launch.get("way") == "nodes" else None
    try:
        lines = Path(str(path)).read_text().splitlines() if path else []
    except OSError:
        return None
    return next((line.split()[0] for line in lines if line.strip() and not line.startswith("#")), None)
