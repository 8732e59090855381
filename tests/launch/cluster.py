"""A SLURM of this machine alone: a controller and two nodes, with their own config, ports and folders.

From Debian's packages slurmctld, slurmd and slurm-client. Without authentication, cgroups and systemd; to be root is
enough.
"""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from common.processes import end_with_parent
from tests.launch.launching import ROOT, wait_for

COMMANDS = ("slurmctld", "slurmd", "sbatch", "srun", "squeue", "scancel", "scontrol")
NODES = ("n1", "n2")
CONFIG = """
ClusterName=test
SlurmctldHost=localhost
SlurmctldPort={ports[0]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/none
CredType=cred/none
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/spool-%n
SlurmctldPidFile={root}/slurmctld.pid
SlurmdPidFile={root}/slurmd-%n.pid
SlurmctldLogFile={root}/slurmctld.log
SlurmdLogFile={root}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
ReturnToService=2
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0
SwitchType=switch/none
MpiDefault=none
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=2
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=2
PartitionName=all Nodes=n1,n2 Default=YES State=UP
"""


def is_installed() -> bool:
    """Returns whether a cluster can be started here."""
    return os.geteuid() == 0 and all(map(shutil.which, COMMANDS))


needs_slurm = pytest.mark.skipif(not is_installed(), reason="needs root, and Debian's slurmctld, slurmd, slurm-client")


def free_ports(number: int) -> list[int]:
    """Returns ports that no process listens on."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


@contextmanager
def running_cluster() -> Iterator[dict[str, str]]:
    """Starts the cluster and yields the environment in which its commands find it; ends it and its jobs."""
    with tempfile.TemporaryDirectory(prefix="slurm-", dir="/tmp") as folder:  # short: it holds sockets
        yield from _running_cluster(Path(folder))


def _running_cluster(root: Path) -> Iterator[dict[str, str]]:
    (root / "state").mkdir()
    config = root / "slurm.conf"
    config.write_text(CONFIG.format(root=root, host=socket.gethostname().partition(".")[0], ports=free_ports(3)))
    environment = {**os.environ, "SLURM_CONF": str(config), "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    daemons = [["slurmctld", "-D", "-c"], *(["slurmd", "-D", "-N", node] for node in NODES)]
    with ExitStack() as stack:
        log = stack.enter_context((root / "daemons.log").open("w"))
        for daemon in daemons:
            process = subprocess.Popen(
                daemon, env=environment, stdout=log, stderr=log, cwd=root, preexec_fn=end_with_this_process
            )
            stack.callback(_end, process)
        wait_for(lambda: slurm(environment, "sinfo", "-h", "-o", "%D %T").split() == ["2", "idle"], None)
        try:
            yield environment
        finally:
            slurm(environment, "scancel", "--me")
            slurm(environment, "scancel", "--signal=KILL", "--full", "--me")
            wait_for(lambda: slurm(environment, "squeue", "-h") == "", None)


def end_with_this_process() -> None:
    """Makes a process that is being started end with the tests, even if these are killed."""
    end_with_parent(None, signal.SIGTERM)


def slurm(environment: dict[str, str], *command: str) -> str:
    """Returns what a command of SLURM prints."""
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=ROOT)
    return done.stdout.strip()


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    process.wait()
