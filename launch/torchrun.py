"""torchrun that ends with the exit code of the rank that failed first, and without its page-long failure report.

Ranks print their own errors; a rank that was killed cannot, so this process prints the signal. A request to stop is
passed on to the ranks, which may then take as long as they need to save: torchrun would kill them after 30 seconds.
"""

import contextlib
import logging
import os
import signal
import sys
import threading
from types import FrameType

import psutil

from common.console import keep_on_without_reader
from common.processes import PARENT
from train.errors import EXIT_USER_ERROR
from train.processes import stop_with_parent
from train.signals import STOP_SIGNALS, ignore_stop_signals, stop_signals
from train.temporary import own_folder

LOOK_AGAIN = 0.1  # seconds
NOT_MET = "start the same command on each within ten minutes, with a host and a port that all of them reach"


def run() -> int:
    """Runs torchrun with the arguments of sys.argv; returns the exit code."""
    stop_with_parent()  # before torch takes its seconds
    is_own = "TORCH_CPP_LOG_LEVEL" not in os.environ
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")  # of this process: an error of its store has 20 lines
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.elastic.rendezvous import RendezvousError
    from torch.distributed.run import main

    if is_own:
        del os.environ["TORCH_CPP_LOG_LEVEL"]
    os.environ[PARENT] = str(os.getpid())  # for the ranks
    logging.disable(logging.CRITICAL)
    sys.argv[1:1] = ["--signals-to-handle=SIGQUIT"]  # and no other signal
    with contextlib.suppress(OSError):  # torchrun's own choice is in TMPDIR too, but a kill would leave it there
        sys.argv[1:1] = [f"--log-dir={own_folder()}"]
    _Request()
    try:
        main()
    except RendezvousError as error:
        why = f" ({error})" if str(error) else ""
        print(f"error: the machines did not meet{why}: {NOT_MET}", file=sys.stderr)
        return EXIT_USER_ERROR
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode >= 0:
            return failure.exitcode
        say_killed(rank, signal.Signals(-failure.exitcode))
        return 128 - failure.exitcode
    finally:
        ignore_stop_signals()  # the interpreter would end by the next one, while it shuts down
    return 0


def say_killed(rank: int, number: signal.Signals) -> None:
    """Prints which signal ended a rank, unless it is a request to stop."""
    if number not in STOP_SIGNALS:
        print(f"error: rank {rank} was ended by {number.name}: look for a lack of memory", file=sys.stderr)


class _Request:
    """Waits for a signal that asks to stop, and passes the first on to the ranks; exits if there are none yet."""

    def __init__(self) -> None:
        self._has_started = False
        self._is_passed_on = False
        sys.addaudithook(self._on_audit)
        for number in stop_signals():
            signal.signal(number, self._on_signal)

    def _on_audit(self, event: str, arguments: tuple[object, ...]) -> None:
        if event == "subprocess.Popen" and "LOCAL_RANK" in (arguments[3] or ()):  # type: ignore[operator]
            self._has_started = True

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if not self._is_passed_on:
            self._is_passed_on = True
            self._pass_on()

    def _pass_on(self) -> None:
        """Sends SIGTERM to the ranks, which save and stop."""
        ranks = psutil.Process().children()
        for rank in ranks:
            with contextlib.suppress(psutil.NoSuchProcess):
                rank.send_signal(signal.SIGTERM)
        if not ranks and not self._has_started:
            os._exit(128 + signal.SIGTERM)
        if not ranks:  # the first starts at this moment, or all have ended and torchrun ends with their code
            again = threading.Timer(LOOK_AGAIN, self._pass_on)
            again.daemon = True
            again.start()


if __name__ == "__main__":
    keep_on_without_reader()
    sys.exit(run())
