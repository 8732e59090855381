"""How many ranks a launch has: on one machine, and over all of them."""

import os
import re
from pathlib import Path

from common.words import counted
from launch.gpus import installed_gpus
from train.config import RunConfig, rows_per_rank
from train.errors import TrainError
from train.launch_config import LaunchWay

HOSTFILE_LINE = re.compile(r"(\S+)\s+slots=(\d+)")


def count_gpus() -> int:
    """Returns the number of GPUs that CUDA would see, without loading CUDA."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([device for device in visible.split(",") if device.strip() not in ("", "-1")])
    return len(installed_gpus())


def gpus_in_words(num_gpus: int) -> str:
    """Returns how many GPUs there are, in words."""
    return f"{counted(num_gpus, 'GPU')} {'is' if num_gpus == 1 else 'are'} visible"


def hosts_of(config: RunConfig) -> dict[str, int]:
    """Returns the ranks of each host that launch.hostfile lists, in its order.

    Raises TrainError if it cannot be read, or if hosts have different numbers: ranks find their GPU by theirs.
    """
    path = Path(config.launch.hostfile or "")
    try:
        lines = [line.strip() for line in path.read_text().splitlines()]
    except OSError as error:
        raise TrainError(f"launch.hostfile={path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise TrainError(f"launch.hostfile={path} is no text: write a line `HOST slots=N` for each machine") from None
    hosts: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        if not line or line.startswith("#"):
            continue
        found = HOSTFILE_LINE.match(line)
        if not found or found[1] in hosts or int(found[2]) < 1:
            raise TrainError(f"launch.hostfile={path}, line {number}: {line!r} is not `HOST slots=N` of a new host")
        hosts[found[1]] = int(found[2])
    if len(set(hosts.values())) != 1:
        raise TrainError(f"launch.hostfile={path} has to list hosts with the same number of slots")
    return hosts


def shape_of(config: RunConfig, num_gpus: int | None = None) -> tuple[int, int]:
    """Returns the number of machines, and of ranks on each; `num_gpus` in place of the GPUs that are visible here.

    Raises TrainError if there are fewer GPUs than ranks, or if the batch does not divide over all ranks.
    """
    given = config.launch
    if given.way is LaunchWay.nodes and given.hostfile is not None:
        hosts = hosts_of(config)
        nodes, ranks = len(hosts), next(iter(hosts.values()))
    elif given.way in (LaunchWay.local, LaunchWay.nodes):
        num_gpus = count_gpus() if num_gpus is None else num_gpus
        nodes, ranks = given.nodes, given.processes or num_gpus or given.cpu_processes
        if num_gpus and ranks > num_gpus:
            raise TrainError(
                f"launch.processes={ranks}, but {gpus_in_words(num_gpus)}: use launch.processes={num_gpus}"
            )
    else:
        nodes, ranks = given.nodes, given.processes or given.gpus_per_node or given.cpu_processes
        if given.gpus_per_node and ranks > given.gpus_per_node:
            raise TrainError(
                f"launch.processes={ranks}, but launch.gpus_per_node={given.gpus_per_node}: use the same number"
            )
    if nodes > 1 and config.global_batch_size % (nodes * ranks):
        raise TrainError(
            f"global_batch_size={config.global_batch_size} cannot be split over {nodes} machines with "
            f"{counted(ranks, 'rank')} each: use a multiple of {nodes * ranks}, or another launch.nodes or "
            "launch.processes"
        )
    rows_per_rank(config, nodes * ranks)
    return nodes, ranks
