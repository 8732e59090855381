"""The command line of evaluations: `python -m evaluate VERB`.

Mistakes get one line and exit code 2.
"""

import argparse
import sys
from pathlib import Path

from common.command_line import add_verb, parser_with, reported

PROG = "python -m evaluate"
EXAMPLES = """examples:
  python -m evaluate probe runs/demo                                      every task, at the length of training
  python -m evaluate probe runs/demo task=copy,reverse length=128,256     two tasks at two lengths
  python -m evaluate probe exported/demo task=niah_single_1 length=4096 num_samples=100
  python -m evaluate probe runs/demo/checkpoints/step-0000080 generate=false     log-likelihoods alone, fast
  python -m evaluate probe runs/demo task=key_value value_digits=2 --out evaluations/easy     smaller values
  python -m evaluate replicate size=cpu                                   the paper's schemes compared, over seeds
"""


def main(arguments: list[str] | None = None) -> int:
    """Runs one verb; returns the exit code."""
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    if any(each.startswith("-") for each in rest):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    options.settings += rest  # those after an option
    return reported(lambda: options.run(options))


def _parser() -> argparse.ArgumentParser:
    parser = parser_with(PROG, "What a model can do with its context.", EXAMPLES)
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)
    verb = add_verb(verbs, PROG, "probe", "ask a model made-up questions, and write scores with their errors", EXAMPLES)
    verb.add_argument("source", metavar="SOURCE", help="a run, a checkpoint, a Hugging Face folder, or one of the hub")
    verb.add_argument(
        "settings", metavar="key=value", nargs="*", help="task=NAME,NAME length=N,N and others: docs/evaluate.md"
    )
    verb.add_argument("--out", type=Path, metavar="DIR", help="default: evaluations/NAME, by the name of the source")
    verb.add_argument("--tokenizer", type=Path, metavar="FILE", help="a tokenizer.json, where the source has none")
    verb.set_defaults(run=_probe)
    said = "train and compare the paper's position schemes on a small scale, over seeds; the same command goes on"
    verb = add_verb(verbs, PROG, "replicate", said, EXAMPLES)
    verb.add_argument(
        "settings",
        metavar="key=value",
        nargs="+",
        help="size=cpu|gpu|tiny (tiny: for tests), keys of configs/replicate/",
    )
    verb.add_argument("--out", type=Path, metavar="DIR", help="default: evaluations/replicate-SIZE")
    verb.set_defaults(run=_replicate)
    return parser


def _probe(options: argparse.Namespace) -> None:
    # The trainer knows its checkpoints; this command line is the one place of the package that asks it.
    from evaluate.config import parse_config
    from evaluate.errors import EvaluateError
    from evaluate.probe import plan, run, settings_of
    from evaluate.results import Results, markdown
    from evaluate.subject import ModelSubject
    from evaluate.tasks import build_tasks
    from train.huggingface.generating import open_writer

    config = parse_config(options.settings)
    build_tasks(config)
    settings = settings_of(config)
    writer = open_writer(options.source, options.tokenizer)
    if not config.length:
        if writer.max_length is None:
            raise EvaluateError(f"{writer.place} does not say at which length it was trained: give length=N")
        config.length = [writer.max_length]
    subject = ModelSubject(writer.model, writer.tokenizer, writer.device, writer.eos_token_ids)
    planned, left_out = plan(subject, config)
    for why in left_out:
        print(f"left out: {why}", file=sys.stderr)
    results = Results(options.out or Path("evaluations") / _name(writer.place), settings | subject.digests())
    summaries = [run(subject, config, each, results, _progress) for each in planned]
    results.write_tables()
    print(markdown(summaries), end="")
    print(f"{results.folder}: a row for each sample, table.md and table.csv")


def _replicate(options: argparse.Namespace) -> None:
    import signal
    import time

    from evaluate.replicate.config import read_config, size_of
    from evaluate.replicate.replicate import replicate

    config = read_config(options.settings)
    name = f"replicate-{size_of(options.settings)}"
    root = (options.out or Path("evaluations") / name).resolve()
    for number in (signal.SIGINT, signal.SIGTERM):  # a shell may have told its background jobs to ignore the first
        signal.signal(number, signal.default_int_handler)
    start = time.monotonic()

    def report(line: str) -> None:
        print(f"{(time.monotonic() - start) / 60:5.1f} min  {line}", flush=True)

    found = replicate(config, name, root, report)
    print("\n".join(found["sentences"]))
    print(f"{root}: page.html, table.md and findings.json")


def _name(place: str) -> str:
    """Returns a name for where weights lie: demo-step-0000100, demo-hf, or that of the folder."""
    folder = Path(place).resolve()
    parent = folder.parent
    if parent.name == "checkpoints":
        return f"{parent.parent.name}-{folder.name}"
    return f"{parent.name}-{folder.name}" if folder.name == "hf" else folder.name


def _progress(task: str, length: int, done: int, total: int) -> None:
    """Prints how far a task is, on a terminal after every sample, else at its end."""
    if sys.stderr.isatty():
        print(f"\r{task} {length}: {done}/{total}", end="\n" if done == total else "", file=sys.stderr, flush=True)
    elif done == total:
        print(f"{task} {length}: {done}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
