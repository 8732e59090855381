"""`python -m evaluate ablate`: the loss with the learned positions of the upper layers replaced."""

import argparse
from functools import partial

from evaluate.verbs.arguments import Verbs
from evaluate.verbs.sources import add_sources, opened_sources, print_progress, split_settings

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
    from evaluate.analyses.patterns import check_learned
    from evaluate.analyses.rows import complete_rows
    from evaluate.analyses.texts import TextsConfig
    from evaluate.config import parse_settings
    from evaluate.results import keep_settings
    from report.evaluation.ablation import FOLDER, HEAD, ablation_rows, read_ablations
    from report.evaluation.folder import open_folders
    from report.evaluation.means import markdown_table

    sources, settings = split_settings(options.settings)
    config = parse_settings(TextsConfig, settings)
    config.settings()
    folders = []
    for opened, folder in opened_sources(sources, options):
        subject = opened.subject()
        check_learned(subject.model, opened.writer.place)
        lengths = config.lengths(0) if config.length else [opened.trained_length()]
        keep_settings(folder / FOLDER, config.settings() | subject.digests())
        for length in lengths:
            make = partial(ablation_row, opened.subject(config.yarn.get(length)), config, length)
            report = partial(print_progress, f"{opened.name} texts of {length}")
            complete_rows(folder / FOLDER / f"text-{length}.jsonl", config.num_texts, make, report)
        folders.append(folder)
    print(markdown_table(HEAD, ablation_rows(read_ablations(open_folders(folders)))), end="")
    places = ", ".join(map(str, folders))
    print(f"{places}: ablation/ has a row for each text; `python -m evaluate page` draws them")
