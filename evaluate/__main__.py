"""The command line of evaluations: `python -m evaluate VERB`.

Mistakes get one line and exit code 2. SIGINT and SIGTERM stop a verb, with exit code 130.
"""

import signal
import sys

from common.command_line import EXIT_INTERRUPTED, reported
from evaluate.verbs import VERBS
from evaluate.verbs.arguments import Verbs
from evaluate.verbs.sources import end_of_progress


def main(arguments: list[str] | None = None) -> int:
    """Runs one verb; returns the exit code."""
    verbs = Verbs("Measure what a model does with its context, draw what was found, and compare position schemes.")
    for file in VERBS:
        file.add(verbs)
    parser = verbs.parser
    options, rest = parser.parse_known_args(arguments)
    if any(each.startswith("-") for each in rest) or (rest and "settings" not in options):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        options.settings = [*options.settings, *rest]  # those after an option
    code = reported(lambda: options.run(options))
    if code == EXIT_INTERRUPTED and "stopped" in options:
        print(f"{end_of_progress()}stopped: {options.stopped}", file=sys.stderr)
    return code


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM):  # a shell may have told its background jobs to ignore the first
        signal.signal(number, signal.default_int_handler)
    sys.exit(main())
