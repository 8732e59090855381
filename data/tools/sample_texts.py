"""The text of the sample mix: real documents that every Python installation has, in the roles of the stage-2 sources.

web           docstrings of the standard library, one document per module  (DCLM: prose at large)
instructions  "write this function", and the function                       (FLAN: a task and its solution)
encyclopedia  the language reference, and pages of the Unicode tables       (Wikipedia)
papers        docstrings with LaTeX (SymPy, if installed) or very long    (peS2o)
qa            doctests: what does this session print?                       (StackExchange)
code          modules as they are                                           (CodeSearchNet)
math          made-up arithmetic with worked answers                        (basic_math, TinyGSM)
lists         made-up lists of letters, and the same lists reversed         (no source of the mix)
"""

import ast
import contextlib
import doctest
import importlib.util
import os
import random
import string
import sysconfig
import unicodedata
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

SKIPPED_FOLDERS = {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"}
LATEX_MARKS = (".. math::", "\\frac", "\\sum", "\\int", "\\mathbb")
MIN_PROSE_CHARACTERS = 200
MIN_PAPER_CHARACTERS = 40_000
CHARACTERS_PER_PAGE = 48

Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


class Document(NamedTuple):
    """A text of the sample."""

    source: str
    """The source it belongs to."""
    origin: str
    """Where it comes from."""
    text: str
    """The text itself."""


@dataclass(frozen=True)
class Module:
    """A Python file of an installed package."""

    name: str
    """Its name below the package, as a path."""
    path: Path
    """The file."""


def find_modules() -> list[Module]:
    """Returns the modules of the standard library, and SymPy's if it is installed; sorted by name, tests left out."""
    roots = {"": Path(sysconfig.get_path("stdlib"))}
    sympy = importlib.util.find_spec("sympy")
    if sympy is not None and sympy.origin is not None:
        roots["sympy/"] = Path(sympy.origin).parent
    modules = [
        Module(prefix + path.relative_to(root).with_suffix("").as_posix(), path)
        for prefix, root in roots.items()
        for path in _python_files(root)
    ]
    return sorted(modules, key=lambda module: module.name)


def _python_files(root: Path) -> Iterator[Path]:
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if name not in SKIPPED_FOLDERS]
        yield from (Path(folder, name) for name in files if name.endswith(".py"))


def module_documents(module: Module) -> Iterator[Document]:
    """Yields all documents of one module; none for a file that does not parse."""
    try:
        code = module.path.read_text(encoding="utf-8")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(code)
    except (OSError, SyntaxError, ValueError):
        return
    if len(code) >= MIN_PROSE_CHARACTERS:
        yield Document("code", module.name, code)
    lines = code.splitlines()
    prose = []
    for node in ast.walk(tree):
        if isinstance(node, Documented) and (docstring := ast.get_docstring(node)):
            name = getattr(node, "name", module.name)
            prose.append(docstring if isinstance(node, ast.Module) else f"{name}\n\n{docstring}")
            yield from _instruction(module, node, docstring, lines)
            yield from _question(module, name, docstring)
    text = "\n\n".join(prose)
    if len(text) >= MIN_PROSE_CHARACTERS:
        scholarly = len(text) >= MIN_PAPER_CHARACTERS or any(mark in text for mark in LATEX_MARKS)
        yield Document("papers" if scholarly else "web", module.name, text)


def encyclopedia_pages() -> Iterator[Document]:
    """Yields the topics of the language reference, then the assigned Unicode characters, page by page."""
    with contextlib.suppress(ImportError):  # some distributions package it apart
        from pydoc_data.topics import topics

        for name, text in sorted(topics.items()):
            yield Document("encyclopedia", f"topic/{name}", text)
    named = [code for code in range(0x80, 0x20000) if unicodedata.name(chr(code), "")]
    for start in range(0, len(named), CHARACTERS_PER_PAGE):
        page = named[start : start + CHARACTERS_PER_PAGE]
        rows = [f"| {chr(code)} | U+{code:04X} | {unicodedata.name(chr(code)).capitalize()} |" for code in page]
        title = f"Unicode characters U+{page[0]:04X} to U+{page[-1]:04X}"
        text = "\n".join([f"# {title}", "", "| character | code point | name |", "|---|---|---|", *rows])
        yield Document("encyclopedia", f"unicode/{page[0]:05x}", text)


def arithmetic(seed: int) -> Iterator[Document]:
    """Yields pages of worked exercises without end."""
    rng = random.Random(seed)
    number = 0
    while True:
        exercises = [_exercise(rng) for _ in range(rng.randint(2, 8))]
        yield Document("math", f"exercises/{number:06d}", "\n\n".join(exercises))
        number += 1


def reversed_lists(seed: int) -> Iterator[Document]:
    """Yields pages of lists, each with its reverse behind it, without end: texts that the demo's positions are for."""
    rng = random.Random(seed)
    number = 0
    while True:
        lines = [_reversed_list(rng) for _ in range(rng.randint(4, 12))]
        yield Document("lists", f"reversed/{number:06d}", "\n".join(["Reverse each list.", *lines, ""]))
        number += 1


def _instruction(module: Module, node: Documented, docstring: str, lines: list[str]) -> Iterator[Document]:
    if isinstance(node, ast.FunctionDef) and node.end_lineno is not None:
        solution = "\n".join(lines[node.lineno - 1 : node.end_lineno])
        task = f"Write the Python function `{node.name}` of the module `{module.name}`. It is described as follows."
        yield Document(
            "instructions", f"{module.name}:{node.lineno}", f"{task}\n\n{docstring}\n\nAnswer:\n\n{solution}"
        )


def _question(module: Module, name: str, docstring: str) -> Iterator[Document]:
    try:
        examples = doctest.DocTestParser().get_examples(docstring)
    except ValueError:  # a docstring that only looks like one with doctests
        return
    if not any(example.want for example in examples):
        return
    session = "".join(f">>> {example.source}" for example in examples)
    answers = "".join(f"{example.source.strip()}\n{example.want}\n" for example in examples if example.want)
    question = f"Question: with `{name}` of `{module.name}`, what does this session print?\n\n{session}"
    yield Document("qa", f"{module.name}:{name}", f"{question}\nAnswer:\n\n{answers}")


def _reversed_list(rng: random.Random) -> str:
    """Returns a line such as ` k d a q > q a d k`; with a space before it, each letter is one token."""
    items = rng.choices(string.ascii_lowercase, k=rng.randint(2, 6))
    return f" {' '.join(items)} > {' '.join(reversed(items))}"


def _exercise(rng: random.Random) -> str:
    a, b, c = rng.randint(2, 999), rng.randint(2, 99), rng.randint(2, 12)
    name = rng.choice(("Ada", "Emmy", "Kurt", "Noor", "Sofia", "Leon", "Mei", "Omar"))
    thing = rng.choice(("apples", "books", "coins", "stamps", "marbles", "tickets"))
    kind = rng.randrange(6)
    if kind == 0:
        return f"Question: What is {a} + {b} - {c}?\nAnswer: {a} + {b} = {a + b}, and {a + b} - {c} = {a + b - c}."
    if kind == 1:
        return f"Question: What is {a} times {c}?\nAnswer: {a} * {c} = {a * c}."
    if kind == 2:
        return f"Question: Divide {a} by {c}.\nAnswer: {a} = {a // c} * {c} + {a % c}: {a // c}, remainder {a % c}."
    if kind == 3:
        return (
            f"Question: {name} has {a} {thing} and gets {b} more on each of {c} days. How many are there then?\n"
            f"Answer: {c} days bring {c} * {b} = {c * b} {thing}. {a} + {c * b} = {a + c * b} {thing}."
        )
    if kind == 4:
        total = c * a + b
        return f"Question: Solve {c}x + {b} = {total}.\nAnswer: {c}x = {total} - {b} = {c * a}, so x = {a}."
    return (
        f"Question: {name} sells {b} {thing} at ${c} each and pays ${a} for the stall. What is left?\n"
        f"Answer: The sales bring {b} * {c} = {b * c} dollars. {b * c} - {a} = {b * c - a} dollars are left."
    )
