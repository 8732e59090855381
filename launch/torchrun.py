"""torchrun that ends with the exit code of the rank that failed first, and without its page-long failure report.

Ranks say themselves what went wrong; a rank that was killed cannot, so that is said here.
"""

import contextlib
import ctypes
import logging
import signal
import sys

from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import main

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def run() -> int:
    """As `torchrun`, arguments from sys.argv; returns the exit code."""
    logging.disable(logging.CRITICAL)
    # If the launcher dies, even of SIGKILL, the ranks are to save and stop, not to train on unseen (Linux only).
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    try:
        main()
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode >= 0:
            return failure.exitcode
        number = signal.Signals(-failure.exitcode)
        if number is not signal.SIGTERM:  # that one is a request to stop
            print(f"error: rank {rank} was ended by {number.name}: look for a lack of memory", file=sys.stderr)
        return 128 - failure.exitcode
    return 0


if __name__ == "__main__":
    sys.exit(run())
