"""`python -m launch keys` finds a key, or the closest one, and prints plain text that fits."""

import subprocess
import sys

import pytest

from launch.keys import matching, print_keys, table
from tests.launch.launching import ROOT
from train.compose.keys import config_keys
from train.errors import EXIT_OK, EXIT_USER_ERROR


def test_a_pattern_is_a_part_of_the_key_or_a_glob() -> None:
    assert [row.key for row in matching("optimizer.lr")] == ["optimizer.lr"]
    assert {row.key for row in matching("*e.warmup_steps")} == {"schedule.warmup_steps"}
    assert matching("") == list(config_keys())
    assert [row.key for row in matching("OPTIMIZER.LR")] == ["optimizer.lr"]
    by_meaning = matching("visible GPUs")  # no key is called so
    assert {"positions", "positions.scheme"} <= {row.key for row in matching("n2r1")}, "a value of both"
    assert "engine.precision" in {row.key for row in matching("BF16")} and not matching("integer")
    assert "launch.parallel" in {row.key for row in by_meaning} and all("GPU" in row.meaning for row in by_meaning)


@pytest.mark.parametrize("width", [80, 200])
def test_lines_fit_the_terminal_and_lose_nothing(width: int) -> None:
    lines = table(config_keys(), width)
    assert max(map(len, lines)) <= width
    assert all(not line.startswith(" ") or line.startswith("    ") for line in lines)
    said = " ".join(" ".join(lines).split())
    assert all(row.key in said and row.meaning in said for row in config_keys())
    keys = [line.split()[0] for line in lines if not line.startswith(" ")]
    assert keys == [row.key for row in config_keys()]


def test_no_match_is_one_line_with_the_closest_keys(capsys: pytest.CaptureFixture[str]) -> None:
    assert print_keys(["learning_rate"]) == EXIT_USER_ERROR
    assert print_keys(["xyzzy"]) == EXIT_USER_ERROR
    assert print_keys(["a", "b"]) == EXIT_USER_ERROR
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.splitlines() == [
        "error: no key matches 'learning_rate'; the closest: optimizer.lr",
        "error: no key matches 'xyzzy': `python -m launch keys` prints all that there are",
        "error: one pattern at a time: python -m launch keys PATTERN",
    ]


def test_help_shows_examples(capsys: pytest.CaptureFixture[str]) -> None:
    assert print_keys(["--help"]) == EXIT_OK
    assert "python -m launch keys optimizer" in capsys.readouterr().out


def test_it_works_piped_as_a_person_types_it() -> None:
    command = [sys.executable, "-m", "launch", "keys", "max_grad"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == EXIT_OK and ended.stderr == ""
    first, *meaning = ended.stdout.splitlines()
    assert first.split() == ["optimizer.max_grad_norm", "1.0", "number"]
    assert all(line.startswith("    ") for line in meaning) and "\x1b" not in ended.stdout
