"""The errors of the `train` package, why a run stops, and the exit codes of its processes."""

from dataclasses import dataclass
from enum import Enum

from common.errors import UserError
from report.run_folder import FINISHED

EXIT_OK, EXIT_CRASHED, EXIT_USER_ERROR = 0, 1, 2
EXIT_DATA = 69  # the data cannot be read; the steps done so far are saved
EXIT_STUCK = 70  # a rank made no progress for too long (train/watchdog.py); run it again
EXIT_UNSAVED = 74  # the last checkpoint or the export could not be written; what was saved before is whole
EXIT_STOPPED = 75  # stopped by a signal after saving; run it again
EXIT_ALERTED = 76  # stopped by the position watch after saving; look at the alert before running it again


class StopReason(Enum):
    """Why the training loop of a run ended, with the exit code that says so."""

    finished = (FINISHED, EXIT_OK)
    stop_step = ("stop_step", EXIT_OK)
    signal = ("signal", EXIT_STOPPED)
    alert = ("alert", EXIT_ALERTED)
    rollback = ("rollback", EXIT_STOPPED)
    data_lost = ("data_lost", EXIT_DATA)
    not_saved = ("not_saved", EXIT_UNSAVED)
    bad_numbers = ("bad_numbers", EXIT_USER_ERROR)

    def __init__(self, word: str, exit_code: int) -> None:
        self.word = word
        """How events.jsonl spells it."""
        self.exit_code = exit_code


@dataclass(frozen=True)
class Stop:
    """The end of a run's training loop."""

    reason: StopReason
    detail: str = ""
    """The signal's name, or the error's message; empty for a run that finished."""


class TrainError(UserError):
    """A setting, a folder or a checkpoint that training cannot use."""


class CollectiveError(TrainError):
    """An error that all ranks raise at the same place: the run can stop after saving."""

    reason: StopReason


class BadNumbersError(CollectiveError):
    """Weights, gradients or losses stay non-finite."""

    reason = StopReason.bad_numbers


class LostDataError(CollectiveError):
    """A rank cannot read its data."""

    reason = StopReason.data_lost


class SaveError(CollectiveError):
    """A checkpoint or the export could not be written; earlier checkpoints are untouched."""

    reason = StopReason.not_saved
