"""`python -m evaluate patterns`: patterns of learned positions beside what chance gives, and their range."""

import argparse

from evaluate.verbs.arguments import Verbs
from evaluate.verbs.sources import add_sources
from evaluate.verbs.texts import complete_texts

EXAMPLES = """
  python -m evaluate patterns runs/demo                                   Constant, Mono and Hybrid, at three lengths
  python -m evaluate patterns runs/repo runs/residual length=1024,4096    two models on the same texts
  python -m evaluate patterns exported/demo texts=book.txt num_texts=50
"""


def add(verbs: Verbs) -> None:
    """Adds the verb to a command line."""
    verb = verbs.add("patterns", "count the paper's patterns of learned positions, beside null values", EXAMPLES)
    add_sources(verb, "texts=FILE length=N,N num_texts=N")
    verb.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> None:
    from evaluate.analyses.patterns import pattern_row
    from report.evaluation.folder import open_folders
    from report.evaluation.means import markdown_table
    from report.evaluation.patterns import FOLDER, HEAD, RANGES_HEAD, pattern_rows, range_rows, read_patterns

    folders = complete_texts(options, FOLDER, pattern_row, parts=(4, 2, 1))
    found = read_patterns(open_folders(folders))
    print(markdown_table(HEAD, pattern_rows(found)), end="")
    print(f"\n{markdown_table(RANGES_HEAD, range_rows(found))}", end="")
    places = ", ".join(map(str, folders))
    print(f"{places}: patterns/ has a row for each text; `python -m evaluate page` draws them")
