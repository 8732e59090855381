"""Several models of one command: which they are, where the results of each go, and how far the work is."""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from evaluate.errors import EvaluateError
from evaluate.verbs.arguments import SOURCE, add_places
from report.evaluation.folder import EVALUATIONS

if TYPE_CHECKING:
    from evaluate.verbs.opening import Opened

GOES_ON = "rows that are written stay, and the same command goes on"


def add_sources(verb: argparse.ArgumentParser, keys: str) -> None:
    """Adds sources and settings, and where results go; `keys` gives an example of the latter."""
    said = f"{SOURCE}, or several; {keys} and others: docs/analyses.md"
    verb.add_argument("settings", metavar="SOURCE|key=value", nargs="+", help=said)
    add_places(verb, "default: evaluations/NAME, by the name of each source; of several sources DIR/NAME")
    verb.set_defaults(stopped=GOES_ON)


def split_settings(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Returns the sources and the settings. Raises EvaluateError if there is no source, or one twice."""
    sources = [each for each in arguments if "=" not in each or Path(each).exists()]
    if not sources:
        raise EvaluateError("there is no SOURCE: name a run, a checkpoint or a Hugging Face folder")
    if len(set(sources)) < len(sources):
        raise EvaluateError("a SOURCE is named twice: give each once")
    return sources, [each for each in arguments if each not in sources]


def opened_sources(sources: Sequence[str], options: argparse.Namespace) -> Iterator[tuple["Opened", Path]]:
    """Yields each model with the folder of its results, one model in memory at a time.

    Raises EvaluateError if two have one name, and what opening raises.
    """
    from evaluate.verbs.opening import Opened

    root = options.out or EVALUATIONS
    names: list[str] = []
    for source in sources:
        opened = Opened(source, options.tokenizer)
        if opened.name in names:
            raise EvaluateError(f"two sources are called {opened.name}: give folders of different names")
        names.append(opened.name)
        yield opened, root if options.out and len(sources) == 1 else root / opened.name
        opened.close()


def print_progress(what: str, done: int, total: int) -> None:
    """Prints how far the work is: on a terminal each time, in one line, else after each tenth."""
    if sys.stderr.isatty():
        print(f"\r{what}: {done}/{total}", end="\n" if done == total else "", file=sys.stderr, flush=True)
    elif 10 * done // total > 10 * (done - 1) // total:
        print(f"{what}: {done}/{total}", file=sys.stderr, flush=True)


def print_left_out(why: str) -> None:
    """Prints that a task, or samples of it, are left out, and why."""
    print(f"left out: {why}", file=sys.stderr)


def end_of_progress() -> str:
    """Returns what a line begins with that may follow one of progress."""
    return "\n" if sys.stderr.isatty() else ""
