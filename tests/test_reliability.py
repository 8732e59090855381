"""The table of faults points at tests that exist."""

import re
from pathlib import Path

from train import errors

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs/reliability.md").read_text()
NAMED = sorted(set(re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", TEXT)))


def test_every_test_that_the_table_names_exists() -> None:
    assert len(NAMED) > 100
    missing = [(file, name) for file, name in NAMED if f"\ndef {name}(" not in (ROOT / file).read_text()]
    assert missing == []


def test_every_row_names_a_test() -> None:
    rows = [line for line in TEXT.split("## Exit codes")[0].splitlines() if line.startswith("| ") and "**" not in line]
    without = [row for row in rows[1:] if "::" not in row and "`make chaos`" not in row]
    assert len(rows) > 35 and without == []


def test_every_exit_code_is_explained() -> None:
    codes = {value for name, value in vars(errors).items() if name.startswith("EXIT_")}
    explained = {int(code) for code in re.findall(r"^\| (\d+) \|", TEXT, flags=re.MULTILINE)}
    assert codes == explained
