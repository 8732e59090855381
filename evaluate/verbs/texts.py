"""What the verbs that read texts with every source have in common: a row for each text, at each length."""

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evaluate.verbs.sources import opened_sources, print_progress, split_settings

if TYPE_CHECKING:
    from collections.abc import Callable

    from evaluate.analyses.texts import TextsConfig
    from evaluate.subject import ModelSubject
    from evaluate.verbs.opening import Opened

    Row = Callable[[ModelSubject, TextsConfig, int, int], dict[str, Any]]


def complete_texts(options: argparse.Namespace, kind: str, row: "Row", parts: Sequence[int]) -> list[Path]:
    """Makes the rows that the folder `kind` of each source's results lacks; returns the results' folders.

    `row` gets a length and the index of a text. Without `length=` the length of training is divided by `parts`. Raises
    EvaluateError, also for a source that learns no positions, and what opening raises.
    """
    from evaluate.analyses.texts import TextsConfig
    from evaluate.config import parse_settings

    sources, settings = split_settings(options.settings)
    config = parse_settings(TextsConfig, settings)
    config.settings()  # a file of texts that cannot be read is an error before a model is opened
    folders = []
    for opened, folder in opened_sources(sources, options):
        lengths = config.lengths(0 if config.length else opened.trained_length(), parts)
        _complete(opened, folder / kind, config, lengths, row)
        folders.append(folder)
    return folders


def _complete(opened: "Opened", folder: Path, config: "TextsConfig", lengths: Sequence[int], row: "Row") -> None:
    from evaluate.analyses.patterns import check_learned
    from evaluate.analyses.rows import complete_rows, scheme_names
    from evaluate.results import keep_settings

    subject = opened.subject()
    layers = check_learned(subject.model, opened.writer.place)
    schemes = scheme_names(subject.model)
    about = {"layers": layers, "schemes": [schemes[layer] for layer in layers], **subject.digests()}
    keep_settings(folder, config.settings() | about)
    for length in lengths:
        make = partial(row, opened.subject(config.yarn.get(length)), config, length)
        report = partial(print_progress, f"{opened.name} texts of {length}")
        complete_rows(folder / f"text-{length}.jsonl", config.num_texts, make, report)
