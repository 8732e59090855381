"""torchrun that ends with the exit code of the rank that failed first, and without its page-long failure report.

Ranks say themselves what went wrong; a rank that was killed cannot, so that is said here.
"""

import logging
import signal
import sys

from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import main


def run() -> int:
    """As `torchrun`, arguments from sys.argv; returns the exit code."""
    logging.disable(logging.CRITICAL)
    try:
        main()
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode >= 0:
            return failure.exitcode
        name = signal.Signals(-failure.exitcode).name
        print(
            f"error: rank {rank} was ended by {name}; if that was not you, look for a lack of memory", file=sys.stderr
        )
        return 128 - failure.exitcode
    return 0


if __name__ == "__main__":
    sys.exit(run())
