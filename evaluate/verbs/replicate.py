"""`python -m evaluate replicate`: the paper's comparison of position schemes, small, over seeds."""

import argparse
from pathlib import Path

from evaluate.verbs.arguments import Verbs

EXAMPLES = """
  python -m evaluate replicate size=cpu                                   the paper's schemes compared, over seeds
"""


def add(verbs: Verbs) -> None:
    """Adds the verb to a command line."""
    said = "train and compare the paper's position schemes on a small scale, over seeds; the same command goes on"
    verb = verbs.add("replicate", said, EXAMPLES)
    verb.add_argument(
        "settings",
        metavar="key=value",
        nargs="*",
        default=[],
        help="size=cpu|gpu|tiny (tiny: minutes, learns nothing), keys of configs/replicate/",
    )
    verb.add_argument("--out", type=Path, metavar="DIR", help="default: evaluations/replicate-SIZE")
    verb.set_defaults(run=_run, stopped="runs that are finished stay, and the same command goes on")


def _run(options: argparse.Namespace) -> None:
    import signal
    import time

    from evaluate.replicate.config import read_config, size_of
    from evaluate.replicate.replicate import replicate
    from report.evaluation.folder import EVALUATIONS

    config = read_config(options.settings)
    name = f"replicate-{size_of(options.settings)}"
    root = (options.out or EVALUATIONS / name).resolve()
    for number in (signal.SIGINT, signal.SIGTERM):  # a shell may have told its background jobs to ignore the first
        signal.signal(number, signal.default_int_handler)
    start = time.monotonic()

    def report(line: str) -> None:
        print(f"{(time.monotonic() - start) / 60:5.1f} min  {line}", flush=True)

    found = replicate(config, name, root, report)
    print("\n".join(found["sentences"]))
    print(f"{root}: page.html, table.md and findings.json")
