"""The command line of the data tools: `python -m data VERB`.

Mistakes get one line and exit code 2.
"""

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common.command_line import add_verb, parser_with, reported
from data.config import EncoderKind
from data.tokenizer import EOS_TOKEN, TOKENIZER_NAME
from data.tools import commands, inspect
from data.tools.options import add_form_options

PROG = "python -m data"
EXAMPLES = """examples:
  python -m data sample corpora/sample                  real text from this Python installation, as a small mix
  python -m data inspect corpora/sample --rows 1        files, documents, bytes and tokens of each source, and a row
  python -m data inspect mine.yaml --steps 1000         the same of a data config, wherever its files lie
  python -m data inspect --file-list configs/data/olmo2-stage2-files.txt        the published mix, before fetching it
  python -m data fetch http://olmo-data.org --file-list configs/data/olmo2-stage2-files.txt --to corpora/olmo2-stage2
  python -m data fetch hf://datasets/allenai/dolmino-mix-1124 --files 'data/wiki/*' --to corpora/dolmino
  python -m data tokenize corpora/sample corpora/sample-tokens                text to token files, once
  python -m data verify corpora/sample-tokens           sizes, hashes, token ids; every file read to its end
  python -m data verify mine.yaml                       the same of the files of a data config
"""
TOKENIZER_HELP = f"tokenizer.json (default: {TOKENIZER_NAME} in the folder)"


def main(arguments: list[str] | None = None) -> int:
    """Runs one verb; returns the exit code."""
    options = _parser().parse_args(arguments)
    return reported(lambda: options.run(options))


def _parser() -> argparse.ArgumentParser:
    parser = parser_with(PROG, "Tools for the data of a run.", EXAMPLES)
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)

    def add(
        name: str, run: Callable[[argparse.Namespace], None], about: str, **defaults: Any
    ) -> argparse.ArgumentParser:
        verb = add_verb(verbs, PROG, name, about, EXAMPLES)
        verb.set_defaults(run=run, **defaults)
        return verb

    sample = add("sample", commands.sample, "build a miniature stage-2 mix; at once if it is there already")
    sample.add_argument("folder", metavar="DIR", type=Path)
    sample.add_argument("--seed", type=int, default=42, help="order of documents, and the arithmetic (default: 42)")
    sample.add_argument("--vocab-size", type=int, default=4096, help="tokens of its tokenizer (default: 4096)")
    sample.add_argument("--megabytes", type=float, default=20.0, help="upper bound on the text (default: 20)")

    fetch = add(
        "fetch", commands.fetch, "copy files of a web server, the hub or a bucket to a folder; goes on where it was"
    )
    fetch.add_argument("root", metavar="ROOT", help="https://, hf://datasets/OWNER/NAME[@REVISION], s3:// or gs://")
    chosen = fetch.add_mutually_exclusive_group(required=True)
    chosen.add_argument("--file-list", type=Path, help="text file that lists .npy paths below ROOT")
    chosen.add_argument("--files", nargs="+", metavar="PATTERN", help="glob patterns below ROOT")
    fetch.add_argument("--to", metavar="DIR", type=Path, required=True)

    verify = add("verify", commands.verify_data, "check sizes, hashes, encodings and token ids of all files")
    verify.add_argument("root", metavar="ROOT", help="data config (.yaml) or folder")
    verify.add_argument("--tokenizer", type=Path, help=TOKENIZER_HELP)
    add_form_options(verify)
    verify.add_argument("--eos-token", help=argparse.SUPPRESS)  # of no use here; earlier versions wanted it

    tokenize = add("tokenize", commands.tokenize, "turn a folder of text into token files; goes on where it was")
    tokenize.add_argument("source", metavar="SRC", type=Path)
    tokenize.add_argument("target", metavar="DIR", type=Path)
    tokenize.add_argument(
        "--processes", type=_positive, default=os.cpu_count(), help="files at a time (default: all cores)"
    )
    tokenize.add_argument("--text-key", default="text", help="field or column that holds the text (default: text)")
    tokenize.add_argument("--max-bad-share", type=float, default=0.001, help="of a file's records (default: 0.001)")
    tokenize.add_argument(
        "--encoder",
        choices=[kind.value for kind in EncoderKind],
        default=EncoderKind.auto.value,
        help="what encodes, without effect on any id (default: auto, fastokens where it agrees with tokenizers)",
    )
    _add_tokenizer(tokenize)

    _add_inspect(add("inspect", inspect.inspect, "count what each source holds, and show rows of it"))
    return parser


def _add_inspect(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("root", metavar="ROOT", nargs="?", help="data config (.yaml), folder, or address of token files")
    verb.add_argument("--file-list", type=Path, help="text file that lists .npy paths; without ROOT, as published")
    verb.add_argument("--rows", type=_not_negative, default=0, help="decoded rows to show (default: none)")
    verb.add_argument("--sequence-length", type=_positive, default=4096, help="tokens of a row (default: 4096)")
    verb.add_argument("--batch-size", type=_positive, default=512, help="rows of a step (default: 512)")
    verb.add_argument("--steps", type=_not_negative, default=0, help="say how often this many steps read each source")
    verb.add_argument("--seed", type=int, default=42, help="of the published order (default: 42)")
    add_form_options(verb)
    _add_tokenizer(verb)


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more, not {number}")
    return number


def _not_negative(text: str) -> int:
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"must be 0 or more, not {number}")
    return number


def _add_tokenizer(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--tokenizer", type=Path, help=TOKENIZER_HELP)
    verb.add_argument("--eos-token", default=EOS_TOKEN, help=f"its end-of-document token (default: {EOS_TOKEN})")


if __name__ == "__main__":
    sys.exit(main())
