"""python -m launch plan: memory, speed, traffic and disk of a run before it starts. Needs no torch and no GPU.

  python -m launch plan experiment=repo-1b-50b                            on the GPUs of this machine, or one H100
  python -m launch plan experiment=repo-1b-50b --gpus 8 --gpu h200        on others
  python -m launch plan experiment=repo-7b-50b --gpus 64 --network 40     nodes with one card of 400 Gbit/s
  python -m launch plan experiment=repo-1b-50b --mfu 0.5 --json           another share of the peak; for scripts

  --gpus N            GPUs in all (default: launch.processes, else those of this machine, else 1)
  --gpu NAME          their kind (default: that of this machine, else an H100)
  --gpus-per-node N   default: 8
  --network N         gigabytes a second of each node to others (default: 320)
  --mfu N             share of the GPU's peak, 0 to 1 (default: measured where there is one, else assumed)
  --json              all of it for scripts

Any key=value of a launch can be given. What is calculated and what is measured is said. Exit code 1: it does not fit.
"""

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from functools import partial

from common.command_line import Parser, print_text
from common.words import counted
from launch.gpus import installed_gpus
from launch.plan import page
from launch.plan.advice import advise, check_gpus
from launch.plan.disk import disk
from launch.plan.estimate import ASSUMED_MFU, GPUS_PER_NODE, NETWORK, Cluster, estimate
from launch.plan.measured import closest
from launch.ranks import count_gpus
from model.accounting import num_parameters
from train.compose.app import hydra_app
from train.compose.command_line import is_sweep
from train.config import RunConfig
from train.devices import DEVICES, Device, find_device
from train.engine.config import Precision
from train.engine.memory import element_bytes
from train.errors import EXIT_OK, TrainError
from train.launch_config import LaunchWay

EXIT_DOES_NOT_FIT = 1
DEFAULT_GPU = "H100"
SMALL = 300_000_000  # parameters: kernels of smaller models are too short for a GPU
SIZES = (1, 2, 4, 8, 16, 32, 64)


def run(arguments: Sequence[str]) -> int:
    """Prints the plan of a command line; returns the exit code. Raises TrainError."""
    parser = plan_parser()
    given, overrides = parser.parse_known_args(arguments)
    parser.refuse_others(overrides)
    if is_sweep(overrides):
        raise TrainError("a plan is of one run: leave out -m and sweep=, and give each key one value")
    sys.argv = [sys.argv[0], *overrides]  # what Hydra reads
    task = partial(print_plan, given=given, overrides=overrides)
    return hydra_app(task, __doc__ or "", had_options=bool(arguments))


def plan_parser() -> Parser:
    """Returns the parser of the options; every other argument belongs to the config."""
    parser = Parser(prog="python -m launch plan", add_help=False, allow_abbrev=False)
    parser.add_argument("--gpus", type=int)
    parser.add_argument("--gpu")
    parser.add_argument("--gpus-per-node", type=int, default=GPUS_PER_NODE)
    parser.add_argument("--network", type=float, default=NETWORK / 1e9)
    parser.add_argument("--mfu", type=float)
    parser.add_argument("--json", action="store_true")
    return parser


def print_plan(config: RunConfig, given: argparse.Namespace, overrides: Sequence[str]) -> int:
    """Prints the plan of a run; returns the exit code. Raises TrainError."""
    if config.engine.zero_stage == 0 and element_bytes(config, on_gpu=True) == 2:
        raise TrainError(
            "engine.zero_stage=0 does not work with bf16: use engine.zero_stage=1, or engine.precision=fp32"
        )
    cluster, is_assumed = cluster_of(config, given)
    measured = closest(config, cluster.device) if given.mfu is None else None
    mfu, basis = ASSUMED_MFU, f"calculated, at an assumed MFU of {ASSUMED_MFU:.0%}; not measured"
    if given.mfu is not None:
        mfu, basis = given.mfu, f"calculated, at the given MFU of {given.mfu:.0%}"
    elif measured is not None:
        mfu, basis = measured.mfu, measured.text
    elif num_parameters(config.model, config.positions) < SMALL:
        basis += ", and far too high for so small a model"
    needs, files = estimate(config, cluster, mfu), disk(config)
    advice = None if needs.fits else advise(config, cluster, mfu)
    changes = [] if advice is None else advice.arguments
    command = launch_command(overrides, changes, cluster if advice is None else advice.estimate.cluster)
    if given.json:
        data = page.as_data(needs, files, basis, advice, command) | {"device_is_assumed": is_assumed}
        print_text(json.dumps(data, indent=1))
        return EXIT_OK if needs.fits else EXIT_DOES_NOT_FIT
    others = [number for number in SIZES if config.global_batch_size % number == 0 and _splits(config, number)]
    table = [estimate(config, Cluster(cluster.device, n, cluster.gpus_per_node, cluster.network), mfu) for n in others]
    lines = [page.heading(config, needs), *(assumption_lines(config, cluster) if is_assumed else []), ""]
    for part in (
        page.memory_lines(config, needs),
        page.advice_lines(needs, advice),
        page.speed_lines(needs, basis),
        page.disk_lines(config, files),
        page.other_sizes(table),
    ):
        lines += [*part, ""] if part else []
    print_text("\n".join([*lines, command]))
    return EXIT_OK if needs.fits else EXIT_DOES_NOT_FIT


def cluster_of(config: RunConfig, given: argparse.Namespace) -> tuple[Cluster, bool]:
    """Returns the GPUs to plan for, and whether their kind is assumed for want of any here. Raises TrainError."""
    for option in ("gpus", "gpus_per_node", "network", "mfu"):
        value = getattr(given, option)
        if value is not None and value <= 0:
            raise TrainError(f"--{option.replace('_', '-')} {value:g} has to be above 0")
    if given.mfu is not None and given.mfu > 1:
        raise TrainError(f"--mfu {given.mfu:g} is a share of the peak: give 0.45 for 45 %")
    here = installed_gpus()
    gpus = given.gpus or config.launch.processes or count_gpus() or 1
    check_gpus(config, gpus)
    device = device_called(given.gpu or (here[0].name if here else DEFAULT_GPU))
    cluster = Cluster(device, gpus, given.gpus_per_node, given.network * 1e9)
    return cluster, given.gpu is None and not here


def assumption_lines(config: RunConfig, cluster: Cluster) -> list[str]:
    """Returns what was assumed where no GPU is here, how to plan for others, and what a launch here would do."""
    lines = [f"No GPU is here: this plan assumes {cluster.gpus} x {cluster.device.name}; --gpu and --gpus name others."]
    if config.launch.way is LaunchWay.local and config.engine.precision is not Precision.bf16:
        ranks = counted(config.launch.processes or config.launch.cpu_processes, "rank")
        lines.append(f"Started here, the run trains on the CPU, on {ranks}: memory and speed below are not of that.")
    return lines


def device_called(name: str) -> Device:
    """Returns the device of a name. Raises TrainError with all that there are."""
    device = find_device(name)
    if device is None:
        known = ", ".join(one.name for one in DEVICES)
        raise TrainError(f"--gpu {name} is not known; choose one of {known}")
    return device


def launch_command(overrides: Sequence[str], changes: Sequence[str], cluster: Cluster) -> str:
    """Returns the command that starts the run as it was planned."""
    changed = {argument.partition("=")[0] for argument in changes}
    kept = [argument for argument in overrides if argument.partition("=")[0] not in {*changed, "launch.processes"}]
    words = [*kept, *changes]
    if cluster.nodes > 1:
        shape = [f"launch.nodes={cluster.nodes}", f"launch.gpus_per_node={cluster.gpus_per_node}"]
        return shlex.join(["python", "-m", "launch", *words, "launch=slurm", *shape])
    return shlex.join(["python", "-m", "launch", *words, f"launch.processes={cluster.gpus}"])


def _splits(config: RunConfig, gpus: int) -> bool:
    share = config.global_batch_size // gpus
    return share % (config.micro_batch_size or share) == 0
