"""Means over documents, with their errors: losses by range of indices, perplexities, and paired differences."""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from evaluate.perplexity.measure import Bin, Row, Variant
from evaluate.results import Mean

FIRST_SHIFT = 4  # the first range of a table is 1/16 of the shortest length: five ranges, as eval/position/... has
HEADER = ("model", "length", "yarn", "start", "stop", "documents", "nll", "nll_se", "perplexity")
HEADER_YARN = (*HEADER, "minus_without_yarn", "minus_without_yarn_se")
HEADER_DIFFERENCE = ("model", "against", "length", "yarn", "start", "stop", "documents", "difference", "difference_se")

Rows = Mapping[Variant, Sequence[Row]]
"""The rows of one model, in the order of the documents of each variant."""


@dataclass(frozen=True)
class Line:
    """One range of indices of one variant; the last of each variant is the whole length."""

    variant: Variant
    bin: Bin
    num_documents: int
    nll: Mean
    """Per token, in nats: the mean over documents."""
    minus_plain: Mean | None
    """The paired difference to the same documents without YaRN; None where there is none."""


def shown_bins(length: int, shortest: int) -> list[Bin]:
    """Returns the ranges of a table: powers of two, those below 1/16 of the shortest length as one; then all."""
    first = max(1, 1 << ((shortest >> FIRST_SHIFT) or 1).bit_length() - 1)
    ends = [1 << power for power in range(length.bit_length()) if first <= 1 << power < length]
    return [*zip([0, *ends], [*ends, length], strict=True), (0, length)]


def lines(rows: Rows) -> list[Line]:
    """Returns the lines of a model's table, by variant."""
    shortest = min(variant.length for variant in rows)
    found = []
    for variant in in_order(rows):
        plain = rows.get(Variant(variant.length)) if variant.factor else None
        for span in shown_bins(variant.length, shortest):
            values = per_document(rows[variant], span)
            if not values:
                continue
            minus = None
            if plain is not None:
                minus = Mean.of([own - other for own, other in zip(values, per_document(plain, span), strict=True)])
            found.append(Line(variant, span, len(values), Mean.of(values), minus))
    return found


def per_document(rows: Sequence[Row], span: Bin) -> list[float]:
    """Returns the mean loss of each document within a range of indices, which is one or more ranges of the rows."""
    found = []
    for row in rows:
        inside = [sums for name, sums in row["bins"].items() if span[0] <= _start(name) < span[1]]
        if inside:
            found.append(math.fsum(summed for summed, _ in inside) / sum(count for _, count in inside))
    return found


def in_order(rows: Rows) -> list[Variant]:
    """Returns the variants that have rows, by length, those without YaRN first."""
    return sorted((each for each in rows if rows[each]), key=lambda each: (each.length, each.factor or 0.0))


def differences(rows: Rows, reference: Rows) -> list[Line]:
    """Returns the lines of one model minus another, paired by document, for the variants that both have."""
    shortest = min(variant.length for variant in rows)
    found = []
    for variant in in_order(rows):
        if not reference.get(variant):
            continue
        for span in shown_bins(variant.length, shortest):
            pairs = zip(per_document(rows[variant], span), per_document(reference[variant], span), strict=True)
            if values := [own - other for own, other in pairs]:
                found.append(Line(variant, span, len(values), Mean.of(values), None))
    return found


def markdown(found: Sequence[Line], *, perplexity: bool = True) -> str:
    """Returns a table with ranges of indices down, and lengths with and without YaRN across."""
    variants = list(dict.fromkeys(line.variant for line in found))
    by_place = {(line.variant, line.bin): line for line in found}
    wholes = {(0, variant.length) for variant in variants}
    spans = sorted({line.bin for line in found} - wholes, key=lambda span: (span[1], span[0]))
    heads = [f"{each.length:,}{'' if each.factor is None else f', YaRN {each.factor:g}'}" for each in variants]
    table = [f"| tokens | {' | '.join(heads)} |", f"|---|{'---|' * len(variants)}"]
    for span in [*spans, None]:
        cells = []
        for variant in variants:
            line = by_place.get((variant, span or (0, variant.length)))
            cells.append("" if line is None else _cell(line.nll, perplexity))
        table.append(f"| {'all' if span is None else f'{span[0]:,} to {span[1]:,}'} | {' | '.join(cells)} |")
    counts = [str(by_place[variant, (0, variant.length)].num_documents) for variant in variants]
    return "\n".join([*table, f"| documents | {' | '.join(counts)} |"]) + "\n"


def csv_table(name: str, found: Sequence[Line]) -> str:
    """Returns the numbers of a model's table, unrounded, as CSV with a header."""
    cells = []
    for line in found:
        minus = (None, None) if line.minus_plain is None else (line.minus_plain.value, line.minus_plain.error)
        cells.append([name, *_place(line), line.nll.value, line.nll.error, _perplexity(line.nll.value), *minus])
    return _csv(HEADER_YARN, cells)


def csv_differences(name: str, against: str, found: Sequence[Line]) -> str:
    """Returns paired differences, unrounded, as CSV with a header."""
    cells = [[name, against, *_place(line), line.nll.value, line.nll.error] for line in found]
    return _csv(HEADER_DIFFERENCE, cells)


def yarn_lines(found: Sequence[Line]) -> list[Line]:
    """Returns what YaRN changes, as lines of a table: those that have a difference, with it as their value."""
    return [
        Line(line.variant, line.bin, line.num_documents, line.minus_plain, None)
        for line in found
        if line.minus_plain is not None
    ]


def _place(line: Line) -> list[object]:
    return [line.variant.length, line.variant.factor, *line.bin, line.num_documents]


def _csv(header: Sequence[str], cells: Sequence[Sequence[object]]) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows([header, *cells])
    return out.getvalue()


def _cell(mean: Mean, perplexity: bool) -> str:
    error = "" if math.isnan(mean.error) else f" ± {mean.error:.3f}"
    if not perplexity:
        return f"{mean.value:+.3f}{error}"
    return f"{mean.value:.3f}{error} ({_perplexity(mean.value):.4g})"


def _perplexity(nll: float) -> float:
    return math.exp(nll) if nll < 700 else math.inf


def _start(name: str) -> int:
    return int(name.partition("-")[0])
