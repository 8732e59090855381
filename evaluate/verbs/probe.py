"""`python -m evaluate probe`: made-up questions for a model."""

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from evaluate.verbs.arguments import Verbs, add_source
from evaluate.verbs.sources import GOES_ON, print_left_out, print_progress

if TYPE_CHECKING:
    from evaluate.probe import Planned
    from evaluate.results import Results

EXAMPLES = """
  python -m evaluate probe runs/demo                                      every task, at the length of training
  python -m evaluate probe runs/demo task=copy,reverse length=128,256     two tasks at two lengths
  python -m evaluate probe exported/demo task=niah_single_1 length=4096,8192 yarn=8192:2
  python -m evaluate probe runs/demo/checkpoints/step-0000080 generate=false     log-likelihoods alone, fast
  python -m evaluate probe runs/demo task=key_value value_digits=2 --out evaluations/easy     smaller values
"""


def add(verbs: Verbs) -> None:
    """Adds the verb to a command line."""
    verb = verbs.add("probe", "ask a model made-up questions, and write scores with their errors", EXAMPLES)
    add_source(verb)
    said = "task=NAME,NAME length=N,N and others: docs/evaluate.md"
    verb.add_argument("settings", metavar="key=value", nargs="*", default=[], help=said)
    verb.set_defaults(run=_run, stopped=GOES_ON)


def _run(options: argparse.Namespace) -> None:
    from evaluate.config import check_yarn, parse_config
    from evaluate.errors import EvaluateError
    from evaluate.probe import plan, run_all, settings_of
    from evaluate.results import Results, markdown
    from evaluate.tasks import build_tasks
    from evaluate.verbs.opening import Opened
    from report.evaluation.folder import EVALUATIONS

    config = parse_config(options.settings)
    build_tasks(config)
    settings = settings_of(config)
    opened = Opened(options.source, options.tokenizer)
    config.length = config.length or [opened.trained_length()]
    check_yarn(config.yarn, config.length)
    subject = opened.subject()
    planned, left_out = plan(subject, config)
    for why in left_out:
        print_left_out(why)
    subjects = {length: opened.subject(config.yarn.get(length)) for length in config.length}
    results = Results(options.out or EVALUATIONS / opened.name, settings | subject.digests())
    try:
        summaries, given_up = run_all(subjects, config, planned, results, _report)
    except KeyboardInterrupt:
        options.stopped = f"{_after_stop(results, planned, config.num_samples)}; the same command goes on"
        raise
    except EvaluateError as error:
        raise EvaluateError(f"{error}. {_after_stop(results, planned, config.num_samples)}") from error
    for why in given_up:
        print_left_out(why)
    results.write_tables()
    print(markdown(summaries), end="")
    print(f"{results.folder}: a row for each sample, table.md and table.csv")


def _report(task: str, length: int, done: int, total: int) -> None:
    print_progress(f"{task} {length}", done, total)


def _after_stop(results: "Results", planned: "Sequence[Planned]", num_samples: int) -> str:
    """Writes the tables of what there is, and returns how much of what was asked for that is."""
    rows = [results.rows(each.name, each.length) for each in planned]
    done = sum(sum(index < num_samples for index in each) for each in rows)
    if done:
        results.write_tables()
    found = f"{results.folder} has {done} of {len(planned) * num_samples} samples"
    return f"{found}{', and table.md of them' if done else ''}"
