"""What the verbs' command lines have in common."""

import argparse
from pathlib import Path

from common.command_line import add_verb, parser_with

PROG = "python -m evaluate"
SOURCE = "a run, a checkpoint, a Hugging Face folder, or one of the hub"


class Verbs:
    """A command line to which verbs are added, each with examples of its own."""

    def __init__(self, about: str) -> None:
        self.parser = parser_with(PROG, about, "examples:")
        self._verbs = self.parser.add_subparsers(title="verbs", metavar="VERB", required=True)

    def add(self, name: str, about: str, examples: str) -> argparse.ArgumentParser:
        """Returns the parser of a new verb; its `run` is to be set by `set_defaults`."""
        own = examples.strip("\n")
        self.parser.epilog = f"{self.parser.epilog}\n{own}"
        return add_verb(self._verbs, PROG, name, about, own)


def add_source(verb: argparse.ArgumentParser) -> None:
    """Adds what says which model to look at, and where results go."""
    verb.add_argument("source", metavar="SOURCE", help=SOURCE)
    add_places(verb, "default: evaluations/NAME, by the name of the source")


def add_places(verb: argparse.ArgumentParser, out: str) -> None:
    """Adds where results go, of which `out` says the default, and where a tokenizer is."""
    verb.add_argument("--out", type=Path, metavar="DIR", help=out)
    verb.add_argument("--tokenizer", type=Path, metavar="FILE", help="a tokenizer.json, where the source has none")
