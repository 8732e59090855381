"""The words of the project: docstrings that begin with a verb, and words that are not used."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("benchmarks", "common", "data", "evaluate", "launch", "model", "report", "train")
VERB = re.compile(r"(?:[A-Z][a-z]+e?s|Does|Has|Is)\b")  # "Returns", "Raises", "Reads": third person, indicative
UNUSED = re.compile(
    r"nobody|anybody|somebody|behind .* back|accused|heeded|complaint|(?:this|the|every|other) rooms?\b|\bhouse\b"
    r"|of its own accord|\bsettles?\b|\btorn\b|\banew\b|\bmak(?:e|es|ing) room\b|\binsists?\b|every now and then",
    re.IGNORECASE,
)
FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
TEXTS = ROOT / "train/watch/probe_texts.py"  # prose that a model reads


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef]:
    """Yields functions and methods that have a docstring, but properties, whose docstrings are noun phrases."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and ast.get_docstring(node):
            decorators = {ast.unparse(decorator) for decorator in node.decorator_list}
            if not decorators & {"property", "cached_property", "functools.cached_property"}:
                yield node


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_docstrings_of_functions_begin_with_a_verb(path: Path) -> None:
    docstrings = {node.lineno: str(ast.get_docstring(node)) for node in functions(ast.parse(path.read_text()))}
    wrong = {line: text.splitlines()[0] for line, text in docstrings.items() if not VERB.match(text)}
    wrong = {line: text for line, text in wrong.items() if not text.startswith("`") and "__init__" not in text}
    assert wrong == {}


@pytest.mark.parametrize(
    "path", sorted({*FILES, *TESTS} - {TEXTS, Path(__file__)}), ids=lambda path: str(path.relative_to(ROOT))
)
def test_words_that_need_their_author_are_not_used(path: Path) -> None:
    lines = enumerate(path.read_text().splitlines(), 1)
    assert {number: line.strip() for number, line in lines if UNUSED.search(line)} == {}
