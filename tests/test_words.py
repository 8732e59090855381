"""The words of the project: docstrings that begin with a verb, and words that are not used."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

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


def read(path: Path) -> list[str]:
    """Returns the lines of a file."""
    return path.read_text().splitlines()


def place(path: Path, line: int) -> str:
    """Returns where a line is, as an editor takes it."""
    return f"{path.relative_to(ROOT)}:{line}"


def test_docstrings_of_functions_begin_with_a_verb() -> None:
    docstrings = {
        place(path, node.lineno): str(ast.get_docstring(node)).splitlines()[0]
        for path in FILES
        for node in functions(ast.parse(path.read_text()))
    }
    wrong = {where: text for where, text in docstrings.items() if not VERB.match(text)}
    assert len(docstrings) > 1000
    assert {where: text for where, text in wrong.items() if not text.startswith("`") and "__init__" not in text} == {}


def test_words_that_need_their_author_are_not_used() -> None:
    paths = sorted({*FILES, *TESTS} - {TEXTS, Path(__file__)})
    lines = [(place(path, number), line) for path in paths for number, line in enumerate(read(path), 1)]
    assert {where: line.strip() for where, line in lines if UNUSED.search(line)} == {}
