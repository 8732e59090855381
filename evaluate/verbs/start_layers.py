"""`python -m evaluate start-layers`: runs that differ in where learned positions begin, in one table."""

import argparse
from pathlib import Path

from evaluate.verbs.arguments import Verbs
from report.evaluation.folder import EVALUATIONS

EXAMPLES = """
  python -m evaluate start-layers runs/start-layers/*                     loss and probe scores by start layer
"""


def add(verbs: Verbs) -> None:
    """Adds the verb to a command line."""
    said = "gather loss and probe scores of runs that differ in their start layer, as those of sweep=start-layers"
    verb = verbs.add("start-layers", said, EXAMPLES)
    verb.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="a run folder, such as runs/demo")
    verb.add_argument("--evaluations", type=Path, default=EVALUATIONS, metavar="DIR", help="of probe scores")
    verb.add_argument("--out", type=Path, metavar="DIR", help="default: evaluations/start-layers")
    verb.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> None:
    import sys

    from common.files import write_text_whole
    from report.evaluation.means import markdown_table
    from report.evaluation.start_layers import HEAD, TABLE, csv_table, gather, start_layer_rows, unfinished_at
    from report.run_folder import RunFiles

    found = gather(options.runs, options.evaluations)
    for files in map(RunFiles, options.runs):
        if step := unfinished_at(files):
            print(f"WARNING: {files.path} has not finished ({step}): its rows are marked", file=sys.stderr)
    folder = options.out or options.evaluations / "start-layers"
    folder.mkdir(parents=True, exist_ok=True)
    write_text_whole(folder / TABLE, csv_table(found), durable=False)
    print(markdown_table(HEAD, start_layer_rows(found)), end="")
    print(f"{folder}: {TABLE}; `python -m evaluate page {folder}` draws it")
