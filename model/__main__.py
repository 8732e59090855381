"""The command line of models: `python -m model VERB`.

Mistakes get one line and exit code 2.
"""

import argparse
import sys
from pathlib import Path

from common.command_line import add_verb, parser_with, reported
from model.errors import ModelError
from model.huggingface.flavours import Flavour, is_misread

PROG = "python -m model"
EXAMPLES = """examples:
  python -m model export runs/demo exported/demo                          the newest checkpoint, for transformers
  python -m model export runs/demo exported/early --step 80 --dtype bf16  an earlier one, in half the space
  python -m model export runs/demo/checkpoints/step-0000080 exported/published --flavour published
  python -m model export runs/demo exported/for-hub --push OWNER/NAME     uploads it to the hub as well
  python -m model import hf://allenai/OLMo-2-0425-1B@main checkpoints/olmo2-1b      a model of the hub, checked
  python -m model import published/repo checkpoints/repo                  the paper's weights, as flavour auto
  python -m model generate runs/demo "The function returns"               text from a run, a checkpoint or a folder
  python -m model generate runs/demo "def add(a, b):" --show-positions    and where each head puts its tokens
"""


def main(arguments: list[str] | None = None) -> int:
    """Runs one verb; returns the exit code."""
    options = _parser().parse_args(arguments)
    return reported(lambda: options.run(options))


def _parser() -> argparse.ArgumentParser:
    parser = parser_with(PROG, "Models in and out of Hugging Face.", EXAMPLES)
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)
    _add_export(verbs)
    _add_import(verbs)
    _add_generate(verbs)
    return parser


def _add_export(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    verb = add_verb(
        verbs,
        PROG,
        "export",
        "write a run's weights as a Hugging Face folder, from a checkpoint of any ranks",
        EXAMPLES,
    )
    verb.add_argument("source", metavar="RUN_OR_CHECKPOINT", type=Path)
    verb.add_argument("folder", metavar="DIR", type=Path, help="must not exist")
    verb.add_argument("--step", type=int, help="of a run: which checkpoint (default: the newest whole one)")
    flavours = [flavour.value for flavour in Flavour]
    verb.add_argument("--flavour", choices=flavours, help="default: olmo2 where all layers are RoPE, else auto")
    verb.add_argument("--dtype", choices=("fp32", "bf16"), default="fp32", help="default: fp32, as trained")
    verb.add_argument("--tokenizer", type=Path, metavar="FILE", help="a tokenizer.json instead of that of the data")
    verb.add_argument("--push", metavar="OWNER/NAME", help="upload the folder to the hub, as a private repository")
    verb.set_defaults(run=_export)


def _export(options: argparse.Namespace) -> None:
    # The trainer knows its checkpoints; this command line is the one place of the package that asks it.
    from train.huggingface.export import DTYPES, export
    from train.huggingface.push import check_repository, push
    from train.huggingface.source import open_saved

    if options.push is not None:
        check_repository(options.push)
    saved = open_saved(options.source, options.step)
    flavour = Flavour(options.flavour) if options.flavour else None
    no_tokenizer = export(
        saved,
        options.folder,
        flavour=flavour,
        dtype=DTYPES[options.dtype],
        tokenizer=options.tokenizer,
        report=_progress,
    )
    print(f"{saved.checkpoint.folder} is exported to {options.folder}")
    if no_tokenizer:
        print(f"without a tokenizer: {no_tokenizer}")
    if flavour is not None and is_misread(flavour, saved.config.model, saved.config.positions):
        print("only the published forks open it as what it is: plain transformers takes it for RoPE, without a warning")
    if options.push is not None:
        print(f"uploaded to {push(options.folder, options.push)}")


def _add_import(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    verb = add_verb(
        verbs,
        PROG,
        "import",
        "check weights against all that is said of them, and write them as a folder of ours",
        EXAMPLES,
    )
    verb.add_argument(
        "source", metavar="SOURCE", help="Hugging Face folder, run, checkpoint, or hf://OWNER/NAME@REVISION"
    )
    verb.add_argument("folder", metavar="DIR", type=Path, help="must not exist")
    verb.set_defaults(run=_import)


def _import(options: argparse.Namespace) -> None:
    from train.huggingface.imports import import_weights

    found = import_weights(options.source, options.folder, _progress)
    dtype = str(found.dtype).removeprefix("torch.")
    print(f"{found.place} is imported to {options.folder}: flavour {found.flavour.value}, {dtype}")
    print(f"to train on from it as it is: init_from={options.folder} {found.overrides()}")


def _add_generate(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    verb = add_verb(verbs, PROG, "generate", "write text with a run, a checkpoint or a Hugging Face folder", EXAMPLES)
    verb.add_argument("source", metavar="SOURCE", help="as in import")
    verb.add_argument("prompt", metavar="PROMPT")
    verb.add_argument("--max-tokens", type=int, default=100, help="default: 100, or up to the end of the document")
    verb.add_argument("--temperature", type=float, default=0.0, help="default: 0, the most likely token")
    verb.add_argument("--seed", type=int, default=0, help="of what temperature draws (default: 0)")
    verb.add_argument("--show-positions", action="store_true", help="print the tokens coloured by position, per head")
    verb.add_argument("--layer", type=int, help="whose positions (default: the middle one that learns them)")
    verb.add_argument("--tokenizer", type=Path, metavar="FILE", help="a tokenizer.json, where the source has none")
    verb.set_defaults(run=_generate)


def _generate(options: argparse.Namespace) -> None:
    from rich.console import Console

    from train.huggingface.generating import open_writer, show_positions

    if options.temperature < 0 or options.max_tokens < 1:
        raise ModelError("--temperature must be 0 or more, and --max-tokens 1 or more")
    writer, text = open_writer(options.source, options.tokenizer), options.prompt
    layer = writer.layer_to_show(options.layer) if options.show_positions else None
    print(text, end="", flush=True)
    for piece in writer.stream(text, options.max_tokens, options.temperature, options.seed):
        print(piece, end="", flush=True)
        text += piece
    print()
    if layer is not None:
        tokens, positions = writer.positions(text)
        show_positions(tokens, positions[layer], layer, Console())


def _progress(done: int, total: int) -> None:
    """Prints how much is written, on a terminal after every parameter, else at the end of each quarter."""
    if sys.stderr.isatty():
        end = "\n" if done == total else "\r"  # what is printed next takes the place of a line that is not the last
        print(f"{done}/{total} parameters", end=end, file=sys.stderr, flush=True)
    elif done * 4 // total != (done - 1) * 4 // total:
        print(f"{done}/{total} parameters", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
