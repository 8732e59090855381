"""What SLURM says of jobs, and the signal that ends one after it has saved. Asks squeue, sbatch and scancel."""

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

from train.errors import TrainError

ASK_SECONDS = 60.0  # after which a scheduler that does not answer is given up
FORMAT = "%i|%T|%N|%r"  # id, state, nodes, why it waits


@dataclass(frozen=True)
class Job:
    """A job that SLURM knows as not ended."""

    id: str
    state: str
    """As squeue writes it: PENDING, RUNNING, COMPLETING ..."""
    nodes: str
    reason: str

    @property
    def is_waiting(self) -> bool:
        """Whether it is in the queue: nothing of it runs."""
        return self.state in ("PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT")

    @property
    def text(self) -> str:
        """`job 12 RUNNING on n1` or `job 12 PENDING (Priority)`."""
        return f"job {self.id} {self.state} " + (f"({self.reason})" if self.is_waiting else f"on {self.nodes}")


def live_jobs() -> dict[str, Job]:
    """Returns this user's jobs that have not ended, by id, `ARRAY_TASK` for those of an array.

    None on a machine without SLURM. Raises TrainError if the scheduler does not answer.
    """
    try:
        listed = _ask("squeue", "--me", "--noheader", "--array", f"--format={FORMAT}")
    except FileNotFoundError:
        return {}
    rows = [line.strip().split("|", 3) for line in listed.splitlines()]
    jobs = [Job(*row) for row in rows if len(row) == 4]
    return {job.id: job for job in jobs if job.state not in ("COMPLETED", "CANCELLED", "FAILED", "TIMEOUT")}


def submit_script(path: str) -> str:
    """Submits a script and returns the id of the job. Raises TrainError with the reason if it is refused."""
    try:
        return _ask(*submit_command(path)).strip().partition(";")[0]
    except FileNotFoundError:
        raise TrainError(
            "there is no sbatch here: run this on a machine from which jobs are submitted; --dry-run prints the script"
        ) from None


def submit_command(path: str) -> list[str]:
    """Returns the command that submits a script and prints the id of the job."""
    return ["sbatch", "--parsable", path]


def cancel(job: Job) -> None:
    """Takes a waiting job out of the queue; asks one that runs to save and stop. Raises TrainError."""
    # The batch shell alone: it passes the signal on, waits, and does not requeue the job. To all steps, SLURM would
    # send SIGKILL after its KillWait, 30 seconds.
    how = [] if job.is_waiting else ["--batch", "--signal=TERM"]
    try:
        _ask("scancel", *how, job.id)
    except FileNotFoundError:
        raise TrainError("there is no scancel here: run this on a machine from which jobs are submitted") from None


def _ask(*command: str) -> str:
    done = _run(command)
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines() or [f"exit code {done.returncode}"]
        raise TrainError(f"{command[0]} refuses: {lines[-1]}")
    return done.stdout


def _run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command, capture_output=True, text=True, timeout=ASK_SECONDS, stdin=subprocess.DEVNULL, check=False
        )
    except subprocess.TimeoutExpired:
        raise TrainError(f"{command[0]} does not answer within {ASK_SECONDS:.0f} s") from None
