"""Rows of an analysis on disk, one for each sample: those that a file lacks are made and appended."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from common.json_lines import JsonLines, read_json_lines
from model.transformer import Block, Olmo2


def complete_rows(
    path: Path, count: int, make: Callable[[int], dict[str, Any]], report: Callable[[int, int], None]
) -> None:
    """Makes the rows of the indices below `count` that the file lacks. `report` gets how many there are, and of how
    many. Raises OSError if a row cannot be written.
    """
    present, writer = present_rows(path, count), JsonLines(path)
    for index in range(count):
        if index not in present:
            writer.append_now({"index": index, **make(index)})
        report(index + 1, count)


def present_rows(path: Path, count: int) -> set[int]:
    """Returns the indices below `count` that the file has."""
    indices = {index for row in read_json_lines(path) if isinstance(index := row.get("index"), int)}
    return indices & set(range(count))


def scheme_names(model: Olmo2) -> list[str]:
    """Returns the name of each layer's position scheme, bottom first."""
    blocks = [block for block in model.layers if isinstance(block, Block)]
    return [block.positions.scheme.name for block in blocks]
