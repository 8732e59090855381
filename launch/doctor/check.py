"""What a check returns and what it is given."""

import functools
import os
import re
import socket
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from enum import Enum
from typing import Any

from common.errors import UserError
from launch.doctor.reports import report_of_ranks
from launch.gpus import Gpu, installed_gpus
from launch.ranks import count_gpus
from train.config import RunConfig

REMEDY = re.compile(r"; |: (?=(?:add|choose|fetch|free|give|install|make|run|set|start|use|wait)\b)")
"""Where a message for users goes over to what to do."""


class State(Enum):
    """How a check ended."""

    passed = "passed"
    warned = "warned"
    failed = "failed"
    skipped = "skipped"

    @property
    def mark(self) -> str:
        """One character for a table."""
        return {"passed": "✓", "warned": "!", "failed": "✗", "skipped": "-"}[self.value]


@dataclass(frozen=True)
class Result:
    """What a check found."""

    state: State
    found: str
    """In one line."""
    fix: str = ""
    """What to do about it; for what failed or is a warning."""


def passed(found: str) -> Result:
    """Returns a result without a fault."""
    return Result(State.passed, found)


def warned(found: str, fix: str) -> Result:
    """Returns a result that a run survives."""
    return Result(State.warned, found, fix)


def failed(found: str, fix: str) -> Result:
    """Returns a result with which a run cannot start, or goes wrong."""
    return Result(State.failed, found, fix)


def skipped(found: str) -> Result:
    """Returns the result of a check that has nothing to do here."""
    return Result(State.skipped, found)


@dataclass(frozen=True)
class Subject:
    """What is examined: a run's config, on this machine."""

    config: RunConfig
    seconds: float = 300.0
    """That real ranks and the reading of weights may take."""

    @property
    def gpus(self) -> tuple[Gpu, ...]:
        """All GPUs of this machine."""
        return installed_gpus()

    @property
    def num_ranks(self) -> int:
        """Ranks that a launch would start here."""
        return self.config.launch.processes or count_gpus() or self.config.launch.cpu_processes

    @functools.cached_property
    def ranks(self) -> dict[str, Any] | str:
        """What real ranks report, started once; a text says why they do not."""
        return report_of_ranks(self.num_ranks, self.seconds)


Check = Callable[[Subject], Result]


def node_name() -> str:
    """Returns the name of this node: SLURM's own, or the host's."""
    return os.environ.get("SLURMD_NODENAME") or socket.gethostname()


def title(check: Check) -> str:
    """Returns the name of a check, as people read it: that of its function."""
    return check.__name__.removeprefix("check_").replace("_", " ")


def examine(checks: Sequence[Check], subject: Subject, report: Callable[[str, Result], None]) -> dict[str, Result]:
    """Runs every check, and calls `report` with the title and the result of each; returns all results by title.

    A check that raises counts as failed, and the others run all the same.
    """
    results: dict[str, Result] = {}
    for check in checks:
        try:
            result = check(subject)
        except UserError as error:
            result = failed(*problem_and_remedy(str(error)))
        except OSError as error:
            place = f"{error.filename}: " if error.filename else ""
            result = failed(f"{place}{error.strerror or error}", "make it readable and writable for you")
        except Exception as error:  # a fault of the check itself
            result = failed(f"the check itself ended with {error!r}", "report this; the launch may be fine")
        results[title(check)] = result
        report(title(check), result)
    return results


def problem_and_remedy(message: str) -> tuple[str, str]:
    """Returns what a message for users says is wrong, and what it says to do."""
    found = REMEDY.search(message)
    if found is None:
        return message, "the message says what to put right"
    return message[: found.start()], message[found.end() :]


def as_data(results: dict[str, Result]) -> dict[str, dict[str, str]]:
    """Returns results as texts, for JSON."""
    return {name: {**asdict(result), "state": result.state.value} for name, result in results.items()}


def from_data(data: dict[str, dict[str, str]]) -> dict[str, Result]:
    """Returns what `as_data` was given."""
    return {name: Result(State(row["state"]), row["found"], row["fix"]) for name, row in data.items()}
