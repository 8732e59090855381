"""The command line of evaluations: `python -m evaluate VERB`.

Mistakes get one line and exit code 2.
"""

import sys

from common.command_line import reported
from evaluate.verbs import VERBS
from evaluate.verbs.arguments import Verbs


def main(arguments: list[str] | None = None) -> int:
    """Runs one verb; returns the exit code."""
    verbs = Verbs("What a model can do with its context.")
    for file in VERBS:
        file.add(verbs)
    parser = verbs.parser
    options, rest = parser.parse_known_args(arguments)
    if any(each.startswith("-") for each in rest) or (rest and "settings" not in options):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        options.settings += rest  # those after an option
    return reported(lambda: options.run(options))


if __name__ == "__main__":
    sys.exit(main())
