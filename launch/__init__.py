"""Starts processes. Nothing here imports torch, so that a mistake is reported in a fraction of a second."""

import signal
import sys

if sys.argv[:1] == ["-m"] and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    # `python -m launch`: a Ctrl-C during the imports ends it, without a page of Python's.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
