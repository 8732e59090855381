"""Command line tools of the data room: `python -m data VERB`.

Mistakes get one line and exit code 2.
"""

import argparse
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Column, Table

from data.errors import DataError
from data.files import open_folder
from data.sample import EOS_TOKEN, TOKENIZER_NAME, build_sample
from data.summary import summarise
from data.tokenizer import DocumentEncoder

COLUMNS = ("files", "documents", "bad", "bytes", "tokens", "share")
EXAMPLES = """examples:
  python -m data sample datasets/sample                  real text from this Python installation, as a small mix
  python -m data sample datasets/tiny --megabytes 2      a smaller one
  python -m data inspect datasets/sample                 files, documents, bytes and tokens of each source
"""


def main(arguments: list[str] | None = None) -> int:
    """Run one verb; returns the exit code."""
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
    except DataError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: {error.filename}: {error.strerror}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m data",
        description="Tools for the data of a run.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)

    sample = verbs.add_parser("sample", help="build a miniature stage-2 mix; at once if it is there already")
    sample.add_argument("folder", metavar="DIR", type=Path)
    sample.add_argument("--seed", type=int, default=42, help="order of documents, and the arithmetic (default: 42)")
    sample.add_argument("--vocab-size", type=int, default=4096, help="tokens of its tokenizer (default: 4096)")
    sample.add_argument("--megabytes", type=float, default=20.0, help="upper bound on the text (default: 20)")
    sample.set_defaults(run=_sample)

    inspect = verbs.add_parser("inspect", help="count the documents, bytes and tokens of each source below a folder")
    inspect.add_argument("folder", metavar="DIR", type=Path)
    inspect.add_argument("--tokenizer", type=Path, help=f"tokenizer.json to count with (default: DIR/{TOKENIZER_NAME})")
    inspect.add_argument("--eos-token", default=EOS_TOKEN, help=f"its end-of-document token (default: {EOS_TOKEN})")
    inspect.set_defaults(run=_inspect)
    return parser


def _sample(options: argparse.Namespace) -> None:
    console = Console(stderr=True)
    with console.status("looking for the sample") as status:
        built = build_sample(
            options.folder,
            seed=options.seed,
            vocab_size=options.vocab_size,
            megabytes=options.megabytes,
            report=status.update,
        )
    print(f"{options.folder}: {'built' if built else 'complete already'}")


def _inspect(options: argparse.Namespace) -> None:
    root = open_folder(str(options.folder))
    encoder = DocumentEncoder(options.tokenizer or root / TOKENIZER_NAME, options.eos_token)
    with Console(stderr=True).status("reading") as status:
        summaries = []
        for summary in summarise(root, encoder):
            summaries.append(summary)
            status.update(f"reading; {summary.name} is done")
    table = Table("source", *(Column(title, justify="right") for title in COLUMNS))
    total = max(1, sum(summary.num_tokens for summary in summaries))
    for summary in summaries:
        counts = summary.counts
        numbers = (summary.num_files, counts.documents, counts.num_bad, counts.text_bytes, summary.num_tokens)
        table.add_row(summary.name, *(f"{number:,}" for number in numbers), f"{summary.num_tokens / total:.1%}")
    Console().print(table)


if __name__ == "__main__":
    sys.exit(main())
