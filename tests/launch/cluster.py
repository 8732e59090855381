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
from tests.ports import hold_ports

COMMANDS = ("slurmctld", "slurmd", "sbatch", "srun", "squeue", "scancel", "scontrol")
NODES = ("n1", "n2")
MOST_JOBS = 50
FIRST_JOB_PORT = 20_000  # as in launch/slurm/job.sbatch
CONFIG = """
ClusterName=test
SlurmctldHost=localhost
SlurmctldPort={port}
FirstJobId={first_job}
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
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={node_ports[0]} CPUs=2
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={node_ports[1]} CPUs=2
PartitionName=all Nodes=n1,n2 Default=YES State=UP
"""


def is_installed() -> bool:
    """Returns whether a cluster can be started here."""
    return os.geteuid() == 0 and all(map(shutil.which, COMMANDS))


needs_slurm = pytest.mark.skipif(not is_installed(), reason="needs root, and Debian's slurmctld, slurmd, slurm-client")


@contextmanager
def running_cluster() -> Iterator[dict[str, str]]:
    """Starts the cluster and yields the environment in which its commands find it; ends it and its jobs."""
    with tempfile.TemporaryDirectory(prefix="slurm-", dir="/tmp") as folder:  # short: it holds sockets
        yield from _running_cluster(Path(folder))


def _running_cluster(root: Path) -> Iterator[dict[str, str]]:
    (root / "state").mkdir()
    config = root / "slurm.conf"
    port = hold_ports(3 + MOST_JOBS)
    names = {"root": root, "host": socket.gethostname().partition(".")[0], "port": port}
    # The nodes of a job meet at a port that is made from its number.
    config.write_text(CONFIG.format(**names, node_ports=(port + 1, port + 2), first_job=port + 3 - FIRST_JOB_PORT))
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
