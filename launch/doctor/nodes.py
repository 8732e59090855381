"""The doctor on all nodes of a SLURM allocation: each checks itself, and the ranks of all join."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from launch.doctor.check import Result, State, failed, from_data, passed
from launch.doctor.ranks import judge_all_reduce, judge_clocks
from launch.doctor.reports import report_of, worker_command
from train.errors import TrainError

NODE = "--node"
"""The option by which a node is asked for its own checks, as one line of JSON."""
FIRST_PORT, NUM_PORTS = 20_000, 20_000


def allocation() -> tuple[str, int, str]:
    """Returns the job's id, the number of its nodes, and the first of them. Raises TrainError outside of a job."""
    job, nodes = os.environ.get("SLURM_JOB_ID"), os.environ.get("SLURM_JOB_NODELIST")
    if not job or not nodes:
        raise TrainError(
            "--all-nodes asks the nodes of a SLURM job, and this is none: "
            "begin with `salloc --nodes=2 --gpus-per-node=8`, or leave it out"
        )
    listed = _output(["scontrol", "show", "hostnames", nodes]).split()
    return job, len(listed), listed[0]


def reports_of_nodes(arguments: Sequence[str], num_nodes: int, seconds: float) -> dict[str, Any]:
    """Returns what each node says of itself, by its name. Raises TrainError if one does not answer."""
    own = [sys.executable, "-m", "launch", "doctor", *arguments, NODE]
    lines = _output([*_srun(num_nodes), *own], seconds).splitlines()
    reports = [json.loads(line) for line in lines if line.startswith('{"node"')]
    if len(reports) < num_nodes:
        last = (lines or ["nothing was printed"])[-1]
        raise TrainError(f"{len(reports)} of {num_nodes} nodes answered; the last line of srun: {last}")
    return {report["node"]: report for report in reports}


def join_nodes(reports: dict[str, Any], job: str, first: str, seconds: float) -> dict[str, Result]:
    """Returns the results of real ranks over all nodes."""
    at = f"{first}:{FIRST_PORT + (int(job) + 1) % NUM_PORTS}"  # beside the port of the job's own run
    meeting = ["--rdzv-backend=c10d", f"--rdzv-id=doctor-{job}", f"--rdzv-endpoint={at}"]
    [num_ranks, *others] = sorted({report["num_ranks"] for report in reports.values()})
    if others:
        found = ", ".join(f"{node} {report['num_ranks']}" for node, report in sorted(reports.items()))
        return {"all reduce": failed(f"nodes differ in ranks: {found}", "ask for the same GPUs on every node")}
    workers = worker_command(num_ranks, [f"--nnodes={len(reports)}", *meeting])
    report = report_of([*_srun(len(reports)), *workers], seconds, {})  # srun, not this process, is their parent
    if isinstance(report, str):
        fix = "NCCL_SOCKET_IFNAME and GLOO_SOCKET_IFNAME name the network between nodes: docs/launch.md"
        return {"all reduce": failed(f"the ranks did not join: {report}", fix)}
    gpus = {gpu for one in reports.values() for gpu in one["gpus"]}
    return {
        "all reduce": judge_all_reduce(report, min(gpus) if len(gpus) == 1 else "", len(reports)),
        "clocks": judge_clocks(report),
    }


def merged(reports: dict[str, Any]) -> dict[str, Result]:
    """Returns one result per check: the worst of all nodes, with the names of those that have it."""
    results = {node: from_data(report["results"]) for node, report in sorted(reports.items())}
    together: dict[str, Result] = {}
    for name in next(iter(results.values())):
        by_node = {node: rows[name] for node, rows in results.items()}
        for state in (State.failed, State.warned, State.skipped):
            bad = {node: result for node, result in by_node.items() if result.state is state}
            if bad:
                node, worst = next(iter(bad.items()))
                where = node if len(bad) == 1 else f"{len(bad)} nodes, {node} first"
                together[name] = Result(state, f"{where}: {worst.found}", worst.fix)
                break
        else:
            together[name] = passed(f"{len(by_node)} nodes; {next(iter(by_node.values())).found}")
    return together


def _srun(num_nodes: int) -> list[str]:
    return ["srun", f"--nodes={num_nodes}", f"--ntasks={num_nodes}", "--ntasks-per-node=1"]


def _output(command: Sequence[str], seconds: float = 60.0) -> str:
    try:
        ended = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=seconds)
    except FileNotFoundError:
        raise TrainError(f"{command[0]} is not here: --all-nodes needs SLURM's commands") from None
    except subprocess.TimeoutExpired:
        raise TrainError(f"{command[0]} gave no answer within {seconds:.0f} s: raise --seconds") from None
    return ended.stdout
