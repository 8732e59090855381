"""`python -m evaluate perplexity`: the loss of tokens by their index in long documents, with and without YaRN."""

import argparse
from pathlib import Path

from evaluate.errors import EvaluateError
from evaluate.verbs.arguments import SOURCE, Verbs, add_places

EXAMPLES = """
  python -m evaluate perplexity runs/demo                                 documents that the run holds out
  python -m evaluate perplexity exported/repo exported/rope length=4096,8192,16384 yarn=8192:2,16384:4
  python -m evaluate perplexity exported/demo documents=books/ num_documents=50 same_documents=true
"""


def add(verbs: Verbs) -> None:
    """Adds the verb to a command line."""
    said = "measure the loss by index in long documents, with and without YaRN; several models on the same documents"
    verb = verbs.add("perplexity", said, EXAMPLES)
    verb.add_argument(
        "settings",
        metavar="SOURCE|key=value",
        nargs="+",
        help=f"{SOURCE}, or several; length=N,N yarn=N:FACTOR documents=PATH and others: docs/analyses.md",
    )
    add_places(verb, "default: evaluations/NAME, by the name of each source")
    verb.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> None:
    from evaluate.perplexity.config import parse_config
    from evaluate.verbs.reading import read_documents

    sources = [each for each in options.settings if "=" not in each or Path(each).exists()]
    if not sources:
        raise EvaluateError("there is no SOURCE: name a run, a checkpoint or a Hugging Face folder")
    if len(set(sources)) < len(sources):
        raise EvaluateError("a SOURCE is named twice: give each once")
    config = parse_config([each for each in options.settings if each not in sources])
    read_documents(config, sources, options.tokenizer, options.out)
