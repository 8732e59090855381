"""python -m launch keys: every key of a run, its default, its type and its meaning.

python -m launch keys                  all keys
python -m launch keys optimizer        keys that contain this; if none does, those whose values or meaning do
python -m launch keys '*_steps'        keys that match this pattern: * is any text, ? one character

The defaults shown are those of the dataclasses; an experiment may set others (--cfg job prints what a run has). A
pattern also finds keys by their old names.
"""

import fnmatch
import shutil
import sys
import textwrap
from collections.abc import Sequence

from common.command_line import print_text
from train.compose.keys import ConfigKey, config_keys
from train.compose.names import closest_keys
from train.compose.renamed import RENAMED
from train.errors import EXIT_OK, EXIT_USER_ERROR

GAP = 2  # spaces between columns
MAX_DEFAULT = 16  # width of the column of defaults, at most


def print_keys(arguments: Sequence[str]) -> int:
    """Prints the keys that the pattern, if any, chooses; returns the exit code."""
    if {"-h", "--help"} & set(arguments):
        print((__doc__ or "").strip())
        return EXIT_OK
    if len(arguments) > 1:
        print("error: one pattern at a time: python -m launch keys PATTERN", file=sys.stderr)
        return EXIT_USER_ERROR
    pattern = arguments[0] if arguments else ""
    chosen = matching(pattern)
    if not chosen:
        near = closest_keys(pattern)
        hint = f"; the closest: {', '.join(near)}" if near else ": `python -m launch keys` prints all that there are"
        print(f"error: no key matches {pattern!r}{hint}", file=sys.stderr)
        return EXIT_USER_ERROR
    print_text("\n".join(table(chosen, shutil.get_terminal_size().columns)))
    return EXIT_OK


def matching(pattern: str) -> list[ConfigKey]:
    """Returns the keys whose name or old name contains `pattern`, or matches it if it has the characters of a glob.

    If there is none, the keys of which a choice, or the meaning, does. Upper and lower case are the same.
    """
    glob = (pattern if set(pattern) & set("*?[") else f"*{pattern}*").lower()
    found = {RENAMED[old] for old in fnmatch.filter(RENAMED, glob)}
    rows = config_keys()
    named = [row for row in rows if row.key in found or fnmatch.fnmatchcase(row.key.lower(), glob)]
    if named:
        return named
    return [row for row in rows if fnmatch.filter([*row.choices, row.meaning.lower()], glob)]


def table(rows: Sequence[ConfigKey], width: int) -> list[str]:
    """Returns the lines of a table of `width` characters: key, default and type, and below them the meaning."""
    key_width = max(len(row.key) for row in rows) + GAP
    default_width = min(MAX_DEFAULT, max(len(row.default) for row in rows)) + GAP
    lines: list[str] = []
    for row in rows:
        left = f"{row.key:<{key_width}}{row.default:<{default_width - GAP}}{' ' * GAP}"
        lines += textwrap.wrap(
            row.type, width, initial_indent=left, subsequent_indent=" " * (key_width + default_width)
        )
        lines += textwrap.wrap(  # an option such as --container-image stays whole
            row.meaning, width, initial_indent="    ", subsequent_indent="    ", break_on_hyphens=False
        )
    return lines
