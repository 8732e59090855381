"""Faults on a live job, one function each. A fault returns what it did, and leaves the job running or ended.

A fault that the job must survive checks that it goes on. One that ends it checks that the launcher does not report
success, and that no process is left.
"""

import contextlib
import random
import signal
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import psutil

from tests.chaos.job import Job, wait_for
from train.errors import EXIT_OK, EXIT_STOPPED

FILLER = "filler"
NOT_MET = "not met: it was not running"


@dataclass
class Incident:
    """One fault."""

    fault: str
    moment: str
    outcome: str
    last_step: int
    """That was logged then."""


Fault = Callable[[Job, random.Random], Incident]
TARGETS = ("the launcher", "torchrun", "a rank", "a data worker", "everything")


def kill_some(job: Job, rng: random.Random, moment: str | None = None, target: str | None = None) -> Incident:
    """SIGKILL to some of the processes without which the job cannot go on; to `target`, if it is there then."""
    moment = moment or rng.choice(["start", "step", "step", "save", "save", "published"])
    if moment != "now":
        wait_for(moment, job, rng)
    assert job.is_alive, f"ended before it was killed ({moment}): {job.printed()[-3000:]}"
    targets = {name: processes for name, processes in parts(job, rng).items() if processes}
    if target not in targets:
        target = rng.choice([*targets, "everything"])
    for process in targets[target]:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    step = job.last_step()
    code = job.wait()
    assert code != EXIT_OK, f"success is reported although {target} was killed ({moment})"
    return Incident(f"SIGKILL to {target}", moment, f"ended with {code}", step)


def parts(job: Job, rng: random.Random) -> dict[str, list[psutil.Process]]:
    """The processes of a job by what they are; of the ranks and the data workers, one."""
    launcher, descendants = psutil.Process(job.launcher.pid), job.descendants()
    agents = [child for child in descendants if "launch.torchrun" in _arguments(child)]
    # Ranks and their data workers, which are forks of them.
    trainers = [child for child in descendants if "train" in _arguments(child)]
    ranks = [child for child in trainers if _parent(child) in [agent.pid for agent in agents]]
    workers = [child for child in trainers if _parent(child) in [rank.pid for rank in ranks]]
    return {
        "the launcher": [launcher],
        "torchrun": agents,
        "a rank": ranks and [rng.choice(ranks)],
        "a data worker": workers and [rng.choice(workers)],
        "everything": [launcher, *descendants],
    }


def kill_helper(job: Job, rng: random.Random, name: str, argument: str) -> Incident:
    """SIGKILL to a process that the job can do without."""
    job.until_steps(1)
    found: list[psutil.Process] = []

    def find() -> bool:
        found[:] = [child for child in job.processes() if any(argument in part for part in _arguments(child))]
        return bool(found)

    first = job.last_step()
    job.until(lambda: find() or job.last_step() > first + 50, pause=0.02)
    if not found:
        return Incident(f"SIGKILL to {name}", "step", NOT_MET, job.last_step())
    for process in found:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    return _goes_on(job, f"SIGKILL to {name}", "step")


def kill_wandb(job: Job, rng: random.Random) -> Incident:
    """SIGKILL to W&B's process."""
    return kill_helper(job, rng, "W&B's process", "wandb-core")


def kill_report(job: Job, rng: random.Random) -> Incident:
    """SIGKILL to the process that writes the page."""
    return kill_helper(job, rng, "the report's process", "report")


def stop(job: Job, rng: random.Random) -> Incident:
    """SIGTERM to the launcher, as from a scheduler."""
    wait_for(rng.choice(["step", "save"]), job, rng)
    step = job.last_step()
    job.launcher.send_signal(signal.SIGTERM)
    code = job.wait()
    assert code == EXIT_STOPPED, f"stopped with {code}: {job.printed()[-3000:]}"
    return Incident("SIGTERM to the launcher", "step", f"ended with {code}", step)


def fill_disk(job: Job, rng: random.Random) -> Incident:
    """No byte is free on the run's disk for some saves; then space is free again, sometimes only after a kill."""
    job.until_steps(1)
    filler = job.disk / FILLER
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
        for size in (1 << 16, 1):
            with contextlib.suppress(OSError):
                while file.write(b"x" * size):
                    pass
    failures = job.printed().count("could not be written")
    job.until(lambda: job.printed().count("could not be written") > failures)
    ends = rng.random() < 0.3
    try:
        if ends:
            incident = kill_some(job, rng, moment="now")
            return Incident(f"full disk, {incident.fault}", "save", incident.outcome, incident.last_step)
    finally:
        filler.unlink()
    saved = job.num_saved()
    job.until(lambda: job.num_saved() > saved)
    return _goes_on(job, "full disk", "save")


def lose_cache(job: Job, rng: random.Random) -> Incident:
    """The job is stopped and half of what it has fetched deleted: a server that fails half of all requests has to send
    it again.
    """
    incident = stop(job, rng)
    files = sorted(path for path in job.cache.rglob("*.npy") if path.is_file())
    for path in rng.sample(files, len(files) // 2):
        path.unlink()
    return Incident("half of the fetched files deleted", "stopped", incident.outcome, incident.last_step)


FAULTS: dict[str, Fault] = {
    "kill": kill_some,
    "W&B": kill_wandb,
    "report": kill_report,
    "stop": stop,
    "disk": fill_disk,
    "cache": lose_cache,
}
KILLS: dict[str, Fault] = {f"kill {target}": partial(kill_some, moment="step", target=target) for target in TARGETS}
"""One of each target; `kill` takes one of them at random."""


def _goes_on(job: Job, fault: str, moment: str) -> Incident:
    step = job.last_step()
    job.until_steps(3)
    assert job.is_alive, f"{fault} has ended the job: {job.printed()[-3000:]}"
    return Incident(fault, moment, "went on", step)


def _parent(process: psutil.Process) -> int:
    try:
        return process.ppid()
    except psutil.Error:
        return -1


def _arguments(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()[:5]
    except psutil.Error:
        return []
