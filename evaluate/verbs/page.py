"""`python -m evaluate page`: what evaluations found, on one page."""

import argparse
import sys
from pathlib import Path

from evaluate.verbs.arguments import Verbs

EXAMPLES = """
  python -m evaluate page evaluations/demo-hf                             evaluations/demo-hf/page.html
  python -m evaluate page evaluations/rope evaluations/repo --out both.html     two models side by side
"""


def add(verbs: Verbs) -> None:
    """Adds the verb to a command line."""
    verb = verbs.add("page", "draw what evaluations found, models side by side", EXAMPLES)
    verb.add_argument("folders", type=Path, nargs="+", metavar="FOLDER", help="as probe and the others write it")
    verb.add_argument("--out", type=Path, metavar="FILE", help="default: page.html in the first folder")
    verb.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> None:
    from report.evaluation.folder import open_folders
    from report.evaluation.page import write_evaluation
    from report.evaluation.scores import other_questions

    out = options.out or options.folders[0] / "page.html"
    write_evaluation(options.folders, out)
    if other := other_questions(open_folders(options.folders)):
        print(f"WARNING: {other}", file=sys.stderr)
    print(f"page: {out}")
