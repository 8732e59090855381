"""`python -m evaluate perplexity`: the loss of tokens by their index in long documents, with and without YaRN."""

import argparse

from evaluate.verbs.arguments import Verbs
from evaluate.verbs.sources import add_sources, opened_sources, split_settings

EXAMPLES = """
  python -m evaluate perplexity runs/demo                                 documents that the run holds out
  python -m evaluate perplexity exported/repo exported/rope length=4096,8192,16384 yarn=8192:2,16384:4
  python -m evaluate perplexity exported/demo documents=books/ num_documents=50 same_documents=true
"""


def add(verbs: Verbs) -> None:
    """Adds the verb to a command line."""
    said = "measure the loss by index in long documents, with and without YaRN; several models on the same documents"
    verb = verbs.add("perplexity", said, EXAMPLES)
    add_sources(verb, "length=N,N yarn=N:FACTOR documents=PATH")
    verb.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> None:
    from evaluate.perplexity.config import parse_config
    from evaluate.verbs.shared_documents import SharedDocuments
    from train.huggingface.source import check_source

    sources, settings = split_settings(options.settings)
    config = parse_config(settings)
    for source in sources:  # a mistake in the last one costs no hours
        check_source(source)
    shared: SharedDocuments | None = None
    for opened, folder in opened_sources(sources, options):
        shared = shared or SharedDocuments(config, opened)
        shared.read(opened, folder)
