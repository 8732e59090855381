"""How `python -m launch` starts a run: on this machine, on several, through SLURM or as a Kubernetes manifest."""

import re
from dataclasses import dataclass, field
from enum import Enum

from train.errors import TrainError
from train.ranges import check_at_least

CLOCK = re.compile(r"(?:(?P<days>\d+)-)?(?P<first>\d+)(?::(?P<second>\d+))?(?::(?P<third>\d+))?")


SQLITE = "sqlite:///"
"""What the address of a file of SQLite begins with."""


class LaunchWay(Enum):
    """What starts the processes of a run."""

    local = "local"
    nodes = "nodes"
    slurm = "slurm"
    kubernetes = "kubernetes"


@dataclass
class SlurmConfig:
    """What a SLURM job asks for, with launch=slurm."""

    time: str = "24:00:00"
    """Time limit, as D-HH:MM:SS or HH:MM:SS; in quotes in a YAML file, which would read it as a number."""
    warning_seconds: int = 600
    """Seconds before the limit at which the job saves and requeues itself; enough for one step and one checkpoint."""
    requeue: bool = True
    """Whether a job that was warned, preempted or stuck starts again, and continues."""
    most_starts: int = 100
    """Starts of one job, at most."""
    partition: str | None = None
    """Partition; null: the cluster's default."""
    account: str | None = None
    """Account that pays; null: your default."""
    qos: str | None = None
    """Quality of service; null: your default."""
    cpus_per_node: int | None = None
    """CPU cores of each node; null: what the cluster gives with the GPUs."""
    memory: str | None = "0"
    """Memory of each node, such as 900G; 0: all of it; null: what the cluster gives."""
    array_limit: int | None = None
    """Members of a sweep that run at once; null: as many as the cluster allows."""
    container: str | None = None
    """Image in which the ranks run, for clusters whose srun has --container-image (pyxis)."""
    container_mounts: str | None = None
    """What the container sees of the cluster's disks, for srun's --container-mounts."""
    python: str | None = None
    """Python that runs the ranks, on the node or in the container; null: the one that submits."""
    options: list[str] = field(default_factory=list)
    """Further options of sbatch, such as --exclusive."""
    setup: list[str] = field(default_factory=list)
    """Lines of bash that the job runs first, such as "module load cuda" or "export NCCL_SOCKET_IFNAME=ib0"."""

    def validate(self) -> None:
        """Raises TrainError with the key, the value and the remedy."""
        check_at_least("launch.slurm", self, warning_seconds=1, most_starts=1, cpus_per_node=1, array_limit=1)
        seconds = seconds_of(self.time)
        if seconds <= self.warning_seconds:
            raise TrainError(
                f"launch.slurm.time={self.time} is not longer than launch.slurm.warning_seconds={self.warning_seconds}:"
                " the job would be warned while it starts, save nothing and be requeued again and again; raise the time"
            )
        if wrong := next((option for option in self.options if not option.startswith("-")), None):
            raise TrainError(f"launch.slurm.options has {wrong!r}, which is no option: write it as in --exclusive")


@dataclass
class KubernetesConfig:
    """The manifest that launch=kubernetes prints: a TrainJob of Kubeflow Trainer, and the run's config beside it."""

    image: str | None = None
    """Image with this project and its packages; required."""
    namespace: str = "default"
    """Namespace of the job."""
    runtime: str = "torch-distributed"
    """Name of the ClusterTrainingRuntime that starts torchrun."""
    volume_claim: str | None = None
    """PersistentVolumeClaim (ReadWriteMany) that holds data and runs; required."""
    mount_path: str = "/shared"
    """Where the volume is mounted; run_root has to lie in it."""
    python: str = "python"
    """Python in the image."""
    gpu_resource: str = "nvidia.com/gpu"
    """Name of the resource of which each node has launch.gpus_per_node."""
    cpus_per_node: int | None = None
    """CPU cores that each node asks for; null: no request."""
    memory: str | None = None
    """Memory that each node asks for, such as 900Gi; null: no request."""
    grace_seconds: int = 600
    """Seconds between the signal to stop and the kill: enough for one step and one checkpoint."""
    shared_memory: str = "16Gi"
    """Size of /dev/shm, which NCCL and data workers use."""
    node_labels: list[str] = field(default_factory=list)
    """Labels of the nodes to run on, as LABEL=VALUE."""

    def validate(self) -> None:
        """Raises TrainError with the key, the value and the remedy."""
        check_at_least("launch.kubernetes", self, cpus_per_node=1, grace_seconds=1)
        if not self.mount_path.startswith("/"):
            raise TrainError(f"launch.kubernetes.mount_path={self.mount_path} has to begin with /")
        if wrong := next((label for label in self.node_labels if "=" not in label), None):
            raise TrainError(f"launch.kubernetes.node_labels has {wrong!r}: write labels as LABEL=VALUE")


class Sampler(Enum):
    """How a search chooses the next point."""

    tpe = "tpe"
    random = "random"


@dataclass
class SearchConfig:
    """A search over a space of configs/sweep/, as in sweep=optuna."""

    trials: int = 20
    """Points that are tried; a larger number extends a search."""
    seed: int = 0
    """Seed of the points, not of the runs."""
    sampler: Sampler = Sampler.tpe
    """tpe proposes points near the best so far, after ten at random (a tree of Parzen estimators); random: all so."""
    rungs: list[int] = field(default_factory=list)
    """Steps at which all trials are compared and only the best go on to the next; none: all train to the end."""
    reduction: int = 3
    """Of so many trials one goes on from each rung, and at least one of all."""
    storage: str | None = None
    """Where the trials are kept: a journal file, or sqlite:///FILE; null: a journal beside the runs."""

    def validate(self) -> None:
        """Raises TrainError with the key, the value and the remedy."""
        check_at_least("launch.search", self, trials=1, seed=0, reduction=2)
        if self.rungs != sorted(set(self.rungs)) or any(rung < 1 for rung in self.rungs):
            raise TrainError(f"launch.search.rungs={self.rungs} must be steps in rising order, each once")
        if self.storage is not None:
            path = self.storage.removeprefix(SQLITE)
            if not path or "://" in path or path.endswith("/") or ":memory:" in path:
                raise TrainError(f"launch.search.storage={self.storage} is no file: give its path, or {SQLITE}FILE")


@dataclass
class LaunchConfig:
    """What starts the processes of a run, how many there are, and on how many machines."""

    way: LaunchWay = LaunchWay.local
    """What starts the processes; launch=nodes, launch=slurm and launch=kubernetes set it."""
    processes: int | None = None
    """Processes of each machine, one rank each; null: one per GPU, or cpu_processes where there is none."""
    cpu_processes: int = 1
    """Processes on a machine without a GPU."""
    parallel: int = 1
    """Members of a sweep that run at once on this machine; each gets an equal share of the visible GPUs."""
    nodes: int = 1
    """Machines of one run; with a hostfile, those that it lists."""
    gpus_per_node: int = 8
    """GPUs of each machine that launch=slurm and launch=kubernetes ask for; 0: none."""
    rendezvous: str | None = None
    """HOST:PORT at which the machines of launch=nodes meet: one of them, and a free port on it."""
    hostfile: str | None = None
    """File with a line `HOST slots=N` per machine: launch=nodes starts N ranks on each over ssh, with DeepSpeed."""
    slurm: SlurmConfig = field(default_factory=SlurmConfig)
    """The job of launch=slurm."""
    kubernetes: KubernetesConfig = field(default_factory=KubernetesConfig)
    """The manifest of launch=kubernetes."""
    search: SearchConfig = field(default_factory=SearchConfig)
    """A search over a space of configs/sweep/."""

    def validate(self) -> None:
        """Raises TrainError with the key, the value and the remedy."""
        check_at_least("launch", self, processes=1, cpu_processes=1, parallel=1, nodes=1, gpus_per_node=0)
        self.slurm.validate()
        self.kubernetes.validate()
        self.search.validate()
        if self.way is LaunchWay.local and self.nodes > 1:
            raise TrainError(
                f"launch.nodes={self.nodes} is for several machines: add launch=nodes, slurm or kubernetes"
            )
        if self.way is not LaunchWay.local and self.parallel > 1:
            instead = ": use launch.slurm.array_limit" if self.way is LaunchWay.slurm else ""
            raise TrainError(f"launch.parallel={self.parallel} is for launch=local{instead}")
        if self.way is LaunchWay.nodes:
            self._check_nodes()
        elif named := next((key for key in ("rendezvous", "hostfile") if getattr(self, key) is not None), None):
            raise TrainError(
                f"launch.{named} is for several machines without a scheduler: add launch=nodes, or leave it out"
            )
        if self.way is LaunchWay.kubernetes:
            for key in ("image", "volume_claim"):
                if not getattr(self.kubernetes, key):
                    raise TrainError(f"launch=kubernetes needs launch.kubernetes.{key}")

    def _check_nodes(self) -> None:
        if self.hostfile is not None:
            if self.nodes > 1 or self.rendezvous is not None or self.processes is not None:
                raise TrainError(
                    "launch.hostfile says what runs where: leave out launch.nodes, launch.rendezvous, launch.processes"
                )
        elif self.rendezvous is None:
            raise TrainError(
                "launch=nodes needs launch.rendezvous=HOST:PORT, where the machines meet, or launch.hostfile=FILE"
            )
        elif not re.fullmatch(r"[^\s:]+:\d{1,5}|\[[0-9a-fA-F:]+\]:\d{1,5}", self.rendezvous):
            raise TrainError(f"launch.rendezvous={self.rendezvous} is not HOST:PORT, as in node0:29400")
        elif not 0 < int(self.rendezvous.rpartition(":")[2]) < 65536:
            raise TrainError(f"launch.rendezvous={self.rendezvous} has no port: choose one from 1024 to 65535")
        elif self.nodes == 1:
            raise TrainError("launch=nodes needs launch.nodes=N, the number of machines")


def seconds_of(time: str) -> int:
    """Returns the seconds of a time limit as SLURM writes it. Raises TrainError for anything else.

    A bare number, which SLURM takes for minutes, is refused: YAML reads an unquoted 24:00:00 as the number 86400.
    """
    found = CLOCK.fullmatch(time)
    if not found or (found["days"] is None and found["second"] is None):
        raise TrainError(f"launch.slurm.time={time} is no time: write HH:MM:SS or D-HH:MM:SS, in quotes in a YAML file")
    parts = [int(part) for part in (found["first"], found["second"], found["third"]) if part is not None]
    if found["days"] is not None:  # D-HH[:MM[:SS]]
        hours, minutes, seconds = [*parts, 0, 0][:3]
        return ((int(found["days"]) * 24 + hours) * 60 + minutes) * 60 + seconds
    seconds = 0
    for part in parts:  # HH:MM:SS or MM:SS
        seconds = seconds * 60 + part
    return seconds
