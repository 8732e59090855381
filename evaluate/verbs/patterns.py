"""`python -m evaluate patterns`: patterns of learned positions beside what chance gives, and their range."""

import argparse
from functools import partial

from evaluate.verbs.arguments import Verbs
from evaluate.verbs.sources import add_sources, opened_sources, print_progress, split_settings

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
    from evaluate.analyses.patterns import check_learned, pattern_row
    from evaluate.analyses.rows import complete_rows, scheme_names
    from evaluate.analyses.texts import TextsConfig
    from evaluate.config import parse_settings
    from evaluate.results import keep_settings
    from report.evaluation.folder import open_folders
    from report.evaluation.means import markdown_table
    from report.evaluation.patterns import FOLDER, HEAD, RANGES_HEAD, pattern_rows, range_rows, read_patterns

    sources, settings = split_settings(options.settings)
    config = parse_settings(TextsConfig, settings)
    config.settings()
    folders = []
    for opened, folder in opened_sources(sources, options):
        subject = opened.subject()
        layers = check_learned(subject.model, opened.writer.place)
        schemes = scheme_names(subject.model)
        about = {"layers": layers, "schemes": [schemes[layer] for layer in layers], **subject.digests()}
        lengths = config.lengths(0 if config.length else opened.trained_length())
        keep_settings(folder / FOLDER, config.settings() | about)
        for length in lengths:
            make = partial(pattern_row, opened.subject(config.yarn.get(length)), config, length)
            report = partial(print_progress, f"{opened.name} texts of {length}")
            complete_rows(folder / FOLDER / f"text-{length}.jsonl", config.num_texts, make, report)
        folders.append(folder)
    found = read_patterns(open_folders(folders))
    print(markdown_table(HEAD, pattern_rows(found)), end="")
    print(f"\n{markdown_table(RANGES_HEAD, range_rows(found))}", end="")
    places = ", ".join(map(str, folders))
    print(f"{places}: patterns/ has a row for each text; `python -m evaluate page` draws them")
