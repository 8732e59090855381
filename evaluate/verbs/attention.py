"""`python -m evaluate attention`: what the answers to needle tasks attend to."""

import argparse
from functools import partial
from typing import TYPE_CHECKING

from evaluate.verbs.arguments import Verbs
from evaluate.verbs.sources import add_sources, opened_sources, print_left_out, print_progress, split_settings

if TYPE_CHECKING:
    from pathlib import Path

    from evaluate.analyses.attention import AttentionConfig, Queries
    from evaluate.samples import Samples
    from evaluate.subject import ModelSubject
    from evaluate.verbs.opening import Opened

EXAMPLES = """
  python -m evaluate attention runs/demo                              the paper's needle tasks, at the training length
  python -m evaluate attention runs/rope runs/repo task=niah_single_1 length=4096     two models, compared by sample
  python -m evaluate attention exported/demo length=4096,8192 yarn=8192:2 queries=predicting
"""


def add(verbs: Verbs) -> None:
    """Adds the verb to a command line."""
    verb = verbs.add("attention", "measure what the right answers to needle tasks attend to", EXAMPLES)
    add_sources(verb, "task=NAME,NAME length=N,N num_samples=N")
    verb.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> None:
    from evaluate.analyses.attention import AttentionConfig
    from evaluate.config import parse_settings
    from report.evaluation.attention import DIFFERENCES_HEAD, HEAD, difference_rows, means_rows, read_attention
    from report.evaluation.folder import open_folders
    from report.evaluation.means import markdown_table

    sources, settings = split_settings(options.settings)
    config = parse_settings(AttentionConfig, settings)
    config.probes()
    folders = []
    for opened, folder in opened_sources(sources, options):
        _measure(opened, folder, config)
        folders.append(folder)
    found = read_attention(open_folders(folders))
    print(markdown_table(HEAD, means_rows(found)), end="")
    if differences := difference_rows(found):
        print(f"\n{markdown_table(DIFFERENCES_HEAD, differences)}", end="")
    places = ", ".join(map(str, folders))
    print(f"{places}: attention/ has a row for each sample; `python -m evaluate page` draws them")


def _measure(opened: "Opened", folder: "Path", config: "AttentionConfig") -> None:
    from evaluate.analyses.attention import planned, settings_of
    from evaluate.analyses.rows import complete_rows, present_rows, scheme_names
    from evaluate.config import check_yarn
    from evaluate.results import keep_settings
    from evaluate.too_long import TooLongError
    from report.evaluation.attention import FOLDER

    subject = opened.subject()
    lengths = config.length or [opened.trained_length()]
    check_yarn(config.yarn, lengths)
    found = planned(config, subject, lengths)
    kept = settings_of(config) | {"schemes": scheme_names(subject.model)} | subject.digests()
    keep_settings(folder / FOLDER, kept)
    given_up: list[str] = []
    for (task, length), samples in found.items():
        at_length = opened.subject(config.yarn.get(length))
        make = partial(_row, at_length, samples, config.queries)
        report = partial(print_progress, f"{opened.name} {task} {length}")
        path = folder / FOLDER / f"{task}-{length}.jsonl"
        try:
            complete_rows(path, config.num_samples, make, report)
        except TooLongError as error:  # at a later sample than those that are tried first
            if config.task:
                raise
            done = len(present_rows(path, config.num_samples))
            given_up.append(
                f"{config.num_samples - done} of {config.num_samples} samples of {task}: {error}; the table has the "
                f"mean of the other {done}"
            )
    for why in given_up:
        print_left_out(why)


def _row(subject: "ModelSubject", samples: "Samples", queries: "Queries", index: int) -> dict[str, object]:
    from evaluate.analyses.attention import attention_row

    return attention_row(subject, samples[index], queries)
