"""Opens models one after the other and lets each read the same documents: `python -m evaluate perplexity`."""

import sys
from collections.abc import Sequence
from pathlib import Path

from common.files import write_text_whole
from evaluate.config import check_yarn
from evaluate.errors import EvaluateError
from evaluate.perplexity.config import PerplexityConfig
from evaluate.perplexity.documents import Chosen, Texts, choose, held_out_texts, python_texts, texts_of
from evaluate.perplexity.measure import ModelReader, Row, Rows, Variant, measure
from evaluate.perplexity.tables import csv_differences, csv_table, differences, lines, markdown, yarn_lines
from evaluate.results import keep_settings
from evaluate.verbs.opening import Opened, check_source
from evaluate.verbs.sources import print_progress

Measured = dict[Variant, list[Row]]


def read_documents(config: PerplexityConfig, sources: Sequence[str], tokenizer: Path | None, out: Path | None) -> None:
    """Measures each source, writes its tables and rows, and prints them. One model is in memory at a time.

    Raises EvaluateError, and what `Opened` raises.
    """
    for source in sources:
        check_source(source)
    opened = Opened(sources[0], tokenizer)
    config.length = config.length or [opened.trained_length() * times for times in (1, 2, 4)]
    check_yarn(config.yarn, config.length)
    first = _First(config, opened)
    measured: dict[str, Measured] = {}
    for source in sources:
        if source != sources[0]:
            del opened
            opened = Opened(source, tokenizer)
            first.check(opened)
        name = opened.name
        if name in measured:
            raise EvaluateError(f"two sources are called {name}: give folders of different names")
        folder = out or Path("evaluations") / name
        folder = folder / name if out is not None and len(sources) > 1 else folder
        measured[name] = _measure(config, opened, first.chosen, folder)
        _report(name, folder, measured[name], first.about)
        if name != first.name:
            _compare(name, folder, measured[name], first.name, measured[first.name])


class _First:
    """What the first source decides: the documents and their tokens."""

    def __init__(self, config: PerplexityConfig, opened: Opened) -> None:
        self.name = opened.name
        self._is_named = config.documents is not None
        self._data, self._tokenizer = opened.text_data(), opened.writer.tokenizer.to_str()
        texts = self._texts(config)
        self.chosen = choose(
            texts,
            opened.writer.tokenizer,
            opened.writer.eos_token_ids[0],
            config.length,
            config.num_documents,
            pack=config.pack,
            same=config.same_documents,
        )
        self.about = f"{texts.about}; {self.chosen.about()}"
        print(self.about)

    def _texts(self, config: PerplexityConfig) -> Texts:
        if config.documents is not None:
            return texts_of(Path(config.documents), config.text_key)
        if self._data is None or not (self._data.validation.share or self._data.validation.sources):
            return python_texts()
        return held_out_texts(self._data, self.name)

    def check(self, opened: Opened) -> None:
        """Raises EvaluateError for a model with other tokens; warns if it may have been trained on the documents."""
        if opened.writer.tokenizer.to_str() != self._tokenizer:
            raise EvaluateError(
                f"{opened.name} has another tokenizer than {self.name}: losses per token cannot be compared; measure "
                "each by itself"
            )
        own, data = opened.text_data(), self._data
        if self._is_named or own is None or data is None or own.validation.share >= data.validation.share:
            return
        print(
            f"WARNING: {opened.name} holds out {own.validation.share:g} of its documents, {self.name} "
            f"{data.validation.share:g}: it may have been trained on some of these; name it first, or give documents=",
            file=sys.stderr,
        )


def _measure(config: PerplexityConfig, opened: Opened, chosen: Chosen, folder: Path) -> Measured:
    trained = opened.trained_length()
    variants = []
    for length in config.length:
        factor = config.factor(length, trained, has_yarn=opened.writer.positions_config.yarn is not None)
        variants += [Variant(length)] if factor is None else [Variant(length), Variant(length, factor)]
    rows = folder / "perplexity"
    keep_settings(rows, opened.subject().digests() | {"trained_length": trained})

    def report(variant: str, done: int, total: int) -> None:
        print_progress(f"{opened.name} {variant}", done, total)

    return measure(ModelReader(opened.subject), chosen.by_length, variants, Rows(rows), report)


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
