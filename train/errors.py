"""The errors of the `train` package, and the exit codes of a run."""

from common.errors import UserError

EXIT_OK, EXIT_CRASHED, EXIT_USER_ERROR = 0, 1, 2
EXIT_DATA = 69  # the data could not be read any more; all that was trained is saved
EXIT_STUCK = 70  # a rank did not move for too long (train/watchdog.py); run it again
EXIT_UNSAVED = 74  # the last checkpoint or the export could not be written; what was saved before is whole
EXIT_STOPPED = 75  # stopped by a signal after saving; run it again
EXIT_ALERTED = 76  # stopped by the position watch after saving; for a person to look at first


class TrainError(UserError):
    """A setting, a folder or a checkpoint that training cannot go on with."""


class AgreedError(TrainError):
    """What all ranks know at the same moment, and raise alike: the run ends in good order, with a code of its own."""

    exit_code = EXIT_USER_ERROR


class BadNumbersError(AgreedError):
    """Weights, gradients or losses are not finite, for good."""


class LostDataError(AgreedError):
    """A rank cannot read its data any more."""

    exit_code = EXIT_DATA


class SaveError(AgreedError):
    """A checkpoint could not be written; what was there before still is."""

    exit_code = EXIT_UNSAVED
