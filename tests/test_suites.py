"""What tests/conftest.py promises of collection and suites."""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import WHOLE_RUNS

ROOT = Path(__file__).parents[1]
SPY = """
import gc
from pathlib import Path

def pytest_sessionfinish(session):
    process = "worker" if hasattr(session.config, "workerinput") else "controller"
    (Path(__file__).parent / process).write_text(f"{gc.isenabled()} {gc.get_freeze_count() > 0}")
"""
TEST = """
import gc

is_enabled = gc.isenabled()

def test_collection():
    assert not is_enabled and gc.isenabled()
"""


def test_garbage_collections_are_off_while_tests_are_collected_and_on_after_it_in_every_process(tmp_path: Path) -> None:
    folder = tmp_path / "tests/one"
    folder.mkdir(parents=True)
    (folder / "conftest.py").write_text(SPY)
    (folder / "test_one.py").write_text(TEST)
    options = ("-p", "tests.conftest", "-p", "no:cacheprovider", "-n", "1", "-c", os.devnull, "--rootdir")
    command = [sys.executable, "-m", "pytest", *options, str(tmp_path), str(folder)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout
    assert (folder / "worker").read_text() == (folder / "controller").read_text() == "True True"


def fixtures_of(folder: Path) -> Iterator[str]:
    """The names of all fixtures that are defined below a folder."""
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and any(
                ast.unparse(decorator).startswith("pytest.fixture") for decorator in node.decorator_list
            ):
                yield node.name


@pytest.mark.parametrize("package", WHOLE_RUNS)
def test_every_fixture_that_makes_a_test_one_of_the_system_suite_exists(package: str) -> None:
    assert WHOLE_RUNS[package] <= set(fixtures_of(ROOT / package))
