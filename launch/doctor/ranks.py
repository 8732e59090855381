"""Checks of what real ranks report: GPUs, links and clocks."""

from typing import Any

from launch.doctor.check import Result, Subject, failed, passed, skipped, warned
from launch.plan.estimate import NETWORK
from train.devices import find_device

MAX_CLOCK_SECONDS = 1.0  # between two nodes: logs and leases go wrong beyond


def check_devices(subject: Subject) -> Result:
    """Says on what torch trains in real ranks; a machine with GPUs that it cannot use is a fault."""
    report = subject.ranks
    if isinstance(report, str):
        return failed(f"the ranks did not start: {report}", "see the message; `python -m launch` would end with it too")
    library = f"torch {report['torch']}, {report['backend']} {report['nccl']}"
    found = f"{report['world_size']} x {report['device']}; {library}"
    if subject.gpus and report["device"] == "cpu":
        return failed(f"{found}, on a machine with GPUs", "the driver is older than torch's CUDA, or GPUs are hidden")
    return passed(found.strip())


def check_all_reduce(subject: Subject) -> Result:
    """Compares a real all-reduce over all ranks with its sum, and its bandwidth with the plan's."""
    report = subject.ranks
    if isinstance(report, str):
        return failed(f"the ranks did not start: {report}", "NCCL_DEBUG=INFO says more, and docs/launch.md")
    return judge_all_reduce(report, subject.gpus[0].name if subject.gpus else "")


def judge_all_reduce(report: dict[str, Any], gpu: str, num_nodes: int = 1) -> Result:
    """Returns the result for a report of ranks on GPUs of one name, or on none."""
    if report["world_size"] == 1:
        return skipped("one rank: nothing to send")
    if not report["sum_is_right"]:
        return failed("the sum is wrong", "NCCL_P2P_DISABLE=1 to rule out the link; check dmesg for errors of GPUs")
    rate = report["bytes_per_second"]
    found = f"{report['world_size']} ranks, {report['backend']}: {rate / 1e9:.2f} GB/s"
    device = find_device(gpu) if gpu else None
    if device is None or report["backend"] == "gloo":
        return passed(found)
    expected = device.link if num_nodes == 1 else min(device.link, NETWORK)
    found += f", the plan counts on {expected / 1e9:.0f}"
    if rate < expected / 2:
        return warned(found, "see NCCL_DEBUG=INFO: NVLink off, or NET/Socket in place of NET/IB")
    return passed(found)


def check_clocks(subject: Subject) -> Result:
    """Compares the clocks of the nodes right after a barrier."""
    report = subject.ranks
    if isinstance(report, str):
        return skipped("the ranks did not start")
    return judge_clocks(report)


def judge_clocks(report: dict[str, Any]) -> Result:
    """Returns the result for a report of ranks."""
    by_host: dict[str, float] = {}
    for host, clock in report["clocks"]:
        by_host.setdefault(host, clock)
    if len(by_host) == 1:
        return skipped("one node")
    apart = max(by_host.values()) - min(by_host.values())
    found = f"{len(by_host)} nodes, at most {apart:.3f} s apart"
    if apart > MAX_CLOCK_SECONDS:
        return failed(found, "start an NTP client (chronyd) on every node")
    return passed(found)
