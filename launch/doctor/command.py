"""python -m launch doctor: what could end a run in its first minutes, checked before it starts.

  python -m launch doctor experiment=repo-1b-50b                       this machine
  python -m launch doctor experiment=repo-1b-50b --all-nodes           every node of a SLURM allocation, by srun
  python -m launch doctor experiment=demo --json                       for scripts
  python -m launch doctor experiment=demo --seconds 60                 how long ranks and weights may take (300)

Any key=value of a launch can be given. A line per check: ✓ as it should be, ! a run survives it, ✗ mend it first, each
with what to do. Exit code 1: something failed. Nothing is trained; the cache of text may be begun.
"""

import argparse
import json
import sys
import textwrap
from collections.abc import Sequence
from functools import partial

from common.command_line import Parser, print_text
from launch.doctor import machine, nodes, ranks
from launch.doctor import run as run_checks
from launch.doctor.check import Check, Result, State, Subject, as_data, examine, node_name, title
from train.compose.app import hydra_app
from train.compose.command_line import is_sweep
from train.config import RunConfig
from train.errors import EXIT_OK, TrainError

EXIT_FAULTS = 1
OF_A_NODE: tuple[Check, ...] = (
    machine.check_packages,
    machine.check_gpus,
    machine.check_driver,
    machine.check_memory,
    machine.check_shared_memory,
    machine.check_disk_for_the_run,
    machine.check_disk_for_data,
    machine.check_write_access,
    run_checks.check_tokenizer,
    run_checks.check_first_row,
    run_checks.check_flash_attention,
)
"""What differs from node to node."""
OF_THE_RUN: tuple[Check, ...] = (
    run_checks.check_run_folder,
    run_checks.check_weights,
    run_checks.check_wandb,
)
OF_RANKS: tuple[Check, ...] = (ranks.check_devices, ranks.check_all_reduce, ranks.check_clocks)
WIDTH = max(len(title(check)) for check in (*OF_A_NODE, *OF_THE_RUN, *OF_RANKS))


def run(arguments: Sequence[str]) -> int:
    """Examines what a command line describes; returns the exit code. Raises TrainError."""
    parser = Parser(prog="python -m launch doctor", add_help=False, allow_abbrev=False)
    parser.add_argument("--all-nodes", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument(nodes.NODE, action="store_true")
    given, overrides = parser.parse_known_args(arguments)
    parser.refuse_others(overrides)
    if is_sweep(overrides):
        raise TrainError("the doctor examines one run: leave out -m and sweep=, and give each key one value")
    if not given.seconds > 0:
        raise TrainError(f"--seconds {given.seconds:g} has to be above 0")
    sys.argv = [sys.argv[0], *overrides]  # what Hydra reads
    task = partial(examine_run, given=given, overrides=overrides)
    return hydra_app(task, __doc__ or "", had_options=bool(arguments))


def examine_run(config: RunConfig, given: argparse.Namespace, overrides: Sequence[str]) -> int:
    """Runs all checks that were asked for, and prints them; returns the exit code. Raises TrainError."""
    subject = Subject(config, given.seconds)
    if given.node:
        results = examine(OF_A_NODE, subject, lambda name, result: None)
        node = {"node": node_name(), "num_ranks": subject.num_ranks, "gpus": [gpu.name for gpu in subject.gpus]}
        print(json.dumps({**node, "results": as_data(results)}), flush=True)
        return EXIT_OK
    report = _nothing if given.json else print_result
    if given.all_nodes:
        results = examine_all_nodes(subject, overrides)
        for name, result in results.items():
            report(name, result)
        results |= examine(OF_THE_RUN, subject, report)
    else:
        results = examine((*OF_A_NODE, *OF_THE_RUN, *OF_RANKS), subject, report)
    faults = [name for name, result in results.items() if result.state is State.failed]
    if given.json:
        print_text(json.dumps({"faults": faults, "results": as_data(results)}, indent=1))
    else:
        print_text(f"\n{config.name}: {summary(results)}")
    return EXIT_FAULTS if faults else EXIT_OK


def examine_all_nodes(subject: Subject, overrides: Sequence[str]) -> dict[str, Result]:
    """Returns the results of all nodes together. Raises TrainError outside of a SLURM job."""
    job, num_nodes, first = nodes.allocation()
    reports = nodes.reports_of_nodes(overrides, num_nodes, subject.seconds)
    return nodes.merged(reports) | nodes.join_nodes(reports, job, first, subject.seconds)


def print_result(name: str, result: Result) -> None:
    """Prints a line of the table, and the fix below it."""
    print_text(f"{result.state.mark} {name:<{WIDTH}}  {result.found}")
    if result.fix and result.state in (State.failed, State.warned):
        print_text(textwrap.indent(f"fix: {result.fix}", " " * (WIDTH + 4)))


def summary(results: dict[str, Result]) -> str:
    """Returns how many checks ended how, in words."""
    count = [sum(result.state is state for result in results.values()) for state in State]
    counts = dict(zip(State, count, strict=True))
    if counts[State.failed]:
        return f"{counts[State.failed]} of {len(results)} checks failed; mend what is marked {State.failed.mark}"
    warnings = f", {counts[State.warned]} with a warning" if counts[State.warned] else ""
    return f"{len(results)} checks, none failed{warnings}"


def _nothing(name: str, result: Result) -> None:
    """Prints nothing: JSON comes at the end."""
