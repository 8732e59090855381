"""The same documents for all sources of `python -m evaluate perplexity`: the first source decides which."""

import sys
from pathlib import Path

from common.files import write_text_whole
from evaluate.config import check_yarn
from evaluate.errors import EvaluateError
from evaluate.perplexity.config import PerplexityConfig
from evaluate.perplexity.documents import Texts, choose, held_out_texts, python_texts, texts_of
from evaluate.perplexity.measure import ModelReader, Row, Rows, Variant, measure
from evaluate.perplexity.tables import csv_differences, csv_table, differences, lines, markdown, yarn_lines
from evaluate.results import keep_settings
from evaluate.verbs.opening import Opened
from evaluate.verbs.sources import print_progress

Measured = dict[Variant, list[Row]]


class SharedDocuments:
    """Documents in tokens, chosen for the first source, and what that loses on them.

    Raises EvaluateError if there are none, or if the lengths are not known.
    """

    def __init__(self, config: PerplexityConfig, opened: Opened) -> None:
        config.length = config.length or [opened.trained_length() * times for times in (1, 2, 4)]
        check_yarn(config.yarn, config.length)
        self._config, self._name = config, opened.name
        self._data, self._tokenizer = opened.text_data(), opened.writer.tokenizer.to_str()
        texts = self._texts()
        self._chosen = choose(
            texts,
            opened.writer.tokenizer,
            opened.writer.eos_token_ids[0],
            config.length,
            config.num_documents,
            pack=config.pack,
            same=config.same_documents,
        )
        self._about = f"{texts.about}; {self._chosen.about()}"
        self._of_first: Measured | None = None
        print(self._about)

    def read(self, opened: Opened, folder: Path) -> None:
        """Measures a source, the first one before others, writes its tables and rows, and prints them.

        Raises EvaluateError for a model with other tokens.
        """
        self._check(opened)
        measured = self._measured(opened, folder)
        _report(opened.name, folder, measured, self._about)
        if self._of_first is None:
            self._of_first = measured
        else:
            _compare(opened.name, folder, measured, self._name, self._of_first)

    def _texts(self) -> Texts:
        config = self._config
        if config.documents is not None:
            return texts_of(Path(config.documents), config.text_key)
        if self._data is None or not (self._data.validation.share or self._data.validation.sources):
            return python_texts()
        return held_out_texts(self._data, self._name)

    def _check(self, opened: Opened) -> None:
        """Raises EvaluateError for other tokens; warns if the model may have been trained on the documents."""
        if opened.writer.tokenizer.to_str() != self._tokenizer:
            raise EvaluateError(
                f"{opened.name} has another tokenizer than {self._name}: losses per token cannot be compared; measure "
                "each by itself"
            )
        own, data = opened.text_data(), self._data
        if self._config.documents is not None or own is None or data is None:
            return
        if own.validation.share < data.validation.share:
            print(
                f"WARNING: {opened.name} holds out {own.validation.share:g} of its documents, {self._name} "
                f"{data.validation.share:g}: it may have been trained on some of these; name it first, or give "
                "documents=",
                file=sys.stderr,
            )

    def _measured(self, opened: Opened, folder: Path) -> Measured:
        trained = opened.trained_length()
        variants = []
        for length in self._config.length:
            factor = self._config.factor(length, trained, has_yarn=opened.writer.positions_config.yarn is not None)
            variants += [Variant(length)] if factor is None else [Variant(length), Variant(length, factor)]
        rows = folder / "perplexity"
        keep_settings(rows, opened.subject().digests() | {"trained_length": trained})

        def report(variant: str, done: int, total: int) -> None:
            print_progress(f"{opened.name} {variant}", done, total)

        return measure(ModelReader(opened.subject), self._chosen.by_length, variants, Rows(rows), report)


def _report(name: str, folder: Path, measured: Measured, about: str) -> None:
    """Writes perplexity.md and perplexity.csv, and prints the tables."""
    found = lines(measured)
    text = f"{name}: loss in nats per token, mean over documents ± SE (perplexity)\n\n{markdown(found)}"
    if changes := yarn_lines(found):
        text += f"\nWhat YaRN changes, paired by document:\n\n{markdown(changes, perplexity=False)}"
    write_text_whole(folder / "perplexity.md", f"{text}\nDocuments: {about}.\n", durable=False)
    write_text_whole(folder / "perplexity.csv", csv_table(name, found), durable=False)
    print(f"\n{text}\n{folder}: perplexity.md, perplexity.csv, and a row for each document in perplexity/")


def _compare(name: str, folder: Path, measured: Measured, against: str, reference: Measured) -> None:
    """Writes and prints the differences to the first source."""
    changes = differences(measured, reference)
    text = f"{name} minus {against}, paired by document\n\n{markdown(changes, perplexity=False)}"
    write_text_whole(folder / f"perplexity-against-{against}.md", text, durable=False)
    write_text_whole(
        folder / f"perplexity-against-{against}.csv", csv_differences(name, against, changes), durable=False
    )
    print(f"\n{text}", end="")
