"""`python -m evaluate ablate`: the loss with the learned positions of the upper layers replaced."""

import argparse

from evaluate.verbs.arguments import Verbs
from evaluate.verbs.sources import add_sources
from evaluate.verbs.texts import complete_texts

EXAMPLES = """
  python -m evaluate ablate runs/demo                                     the loss without the learned positions
  python -m evaluate ablate runs/repo runs/residual length=4096 num_texts=50
"""


def add(verbs: Verbs) -> None:
    """Adds the verb to a command line."""
    said = "replace the learned positions of the upper layers by the index or a constant, and take the loss again"
    verb = verbs.add("ablate", said, EXAMPLES)
    add_sources(verb, "texts=FILE length=N,N num_texts=N")
    verb.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> None:
    from evaluate.analyses.ablation import ablation_row
    from report.evaluation.ablation import FOLDER, HEAD, ablation_rows, read_ablations
    from report.evaluation.folder import open_folders
    from report.evaluation.means import markdown_table

    folders = complete_texts(options, FOLDER, ablation_row, parts=(1,))
    print(markdown_table(HEAD, ablation_rows(read_ablations(open_folders(folders)))), end="")
    places = ", ".join(map(str, folders))
    print(f"{places}: ablation/ has a row for each text; `python -m evaluate page` draws them")
