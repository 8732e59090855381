"""The code of a position scheme that is not in schemes_repo_olmo2.py: its own `positions`, as an export carries it.

The source of the method becomes a function of (h_btd, maps). What it reads of `self` is a number or a text that is
known when the model is exported, and is written in its place; modules that it uses are imported in it. Needs no torch.
"""

import ast
import builtins
import inspect
import math
import textwrap
from collections.abc import Iterator
from types import FunctionType, ModuleType
from typing import Any

from model.errors import ModelError, require
from model.positions.base import PositionScheme

_LAYER = "self_attn."
_ARITHMETIC = {"model.exact": {"exact_gated"}}
"""What schemes_repo_olmo2.py has under the same name."""


_PROJECT = {"common", "data", "evaluate", "launch", "model", "report", "train"}


def check_scheme(scheme: PositionScheme) -> None:
    """Raises ModelError, saying why, if an export cannot compute the scheme."""
    if not scheme.in_remote_code:
        scheme_code(scheme)


def scheme_code(scheme: PositionScheme) -> str:
    """Returns what is added to schemes_repo_olmo2.py for a scheme. Raises ModelError, saying why, if it cannot be."""
    name = scheme.name
    require(
        scheme.is_tokenwise,
        f"position scheme {name} does not say that a token's position follows from its own vector and index, without "
        f"which an export cannot keep keys: set is_tokenwise in {type(scheme).__name__} if it does",
    )
    require(name.isidentifier(), f"position scheme {name} cannot be exported: its name is no name in Python")
    maps = {
        key: (_owned(scheme, key), num_outputs, num_inputs) for key, (num_outputs, num_inputs) in scheme.maps().items()
    }
    settings = {"is_learned": scheme.is_learned, "adds_index": scheme.adds_index}
    given = "".join(f", {key}=True" for key, value in settings.items() if value)
    if scheme.zero_maps:
        given += f", zero_maps=frozenset({sorted(scheme.zero_maps)!r})"
    return (
        f"\n\n{_function(scheme)}\n\n\nSCHEMES[{name!r}] = Scheme({name}_positions, lambda config: {maps!r}{given})\n"
    )


def _owned(scheme: PositionScheme, key: str) -> str:
    """Returns the name that a map has in its layer."""
    owned = scheme.hf_names[key].removeprefix(_LAYER)
    require(
        owned.isidentifier() and scheme.hf_names[key].startswith(_LAYER),
        f"position scheme {scheme.name} cannot be exported: hf_names of {key} is {scheme.hf_names[key]!r}; name it "
        f"{_LAYER}NAME",
    )
    return owned


def _function(scheme: PositionScheme) -> str:
    """Returns `positions` of a scheme as the source of a function."""
    method = type(scheme).positions
    assert isinstance(method, FunctionType)
    try:
        source = textwrap.dedent(inspect.getsource(method))
    except OSError as error:
        raise ModelError(f"position scheme {scheme.name} cannot be exported: it has no source ({error})") from error
    [function] = ast.parse(source).body
    assert isinstance(function, ast.FunctionDef)
    owner = function.args.args.pop(0)
    function.name, function.decorator_list = f"{scheme.name}_positions", []
    written = _Written(scheme, owner.arg, method.__globals__, set(_bound_names(function)))
    written.visit(function)
    docstring = 1 if ast.get_docstring(function) else 0
    function.body[docstring:docstring] = [
        ast.Import([ast.alias(module, None if module == name else name)]) for name, module in written.modules.items()
    ]
    return ast.unparse(ast.fix_missing_locations(function))


def _bound_names(function: ast.FunctionDef) -> Iterator[str]:
    """Yields the names that a function binds itself."""
    for node in ast.walk(function):
        if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            yield node.id
        elif isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, ast.alias):
            yield (node.asname or node.name).partition(".")[0]
        elif isinstance(node, ast.FunctionDef) and node is not function:
            yield node.name


def _is_constant(value: Any) -> bool:
    """Returns whether a value is a number, a text or None, whose repr is its source."""
    return type(value) in (int, str, bool, type(None)) or (type(value) is float and math.isfinite(value))


class _Written(ast.NodeTransformer):
    """Writes constants in place of what is read of a scheme, and of the module that it is in."""

    def __init__(self, scheme: PositionScheme, owner: str, outside: dict[str, Any], bound: set[str]) -> None:
        self.modules: dict[str, str] = {}  # name -> module, imported at the top of the file of the scheme
        self._scheme, self._owner, self._outside = scheme, owner, outside
        self._bound = bound

    def visit_AnnAssign(self, node: ast.AnnAssign) -> Any:
        """Leaves a type out."""
        plain = ast.Assign([node.target], node.value) if node.value is not None else ast.Pass()
        return self.generic_visit(ast.copy_location(plain, node))

    def visit_FunctionDef(self, node: ast.FunctionDef) -> Any:
        """Leaves the types of a function within it out."""
        node.returns = None
        return self.generic_visit(node)

    def visit_arg(self, node: ast.arg) -> Any:
        """Leaves a type out."""
        node.annotation = None
        return node

    def visit_Import(self, node: ast.Import) -> Any:
        """Keeps an import of what is not this project's."""
        for alias in node.names:
            self._require_foreign(alias.name)
        return node

    def visit_ImportFrom(self, node: ast.ImportFrom) -> Any:
        """Leaves out what the file has; keeps an import of what is not this project's."""
        if {alias.asname or alias.name for alias in node.names} <= _ARITHMETIC.get(node.module or "", set()):
            return None
        self._require_foreign(node.module if node.module and not node.level else "model.positions")
        return node

    def visit_Attribute(self, node: ast.Attribute) -> Any:
        """Writes the value of `self.a.b`."""
        names, root = [node.attr], node.value
        while isinstance(root, ast.Attribute):
            names.insert(0, root.attr)
            root = root.value
        if not (isinstance(root, ast.Name) and root.id == self._owner):
            return self.generic_visit(node)
        value: Any = self._scheme
        for name in names:
            value = getattr(value, name)
        return self._constant(value, ".".join((self._owner, *names)))

    def visit_Name(self, node: ast.Name) -> Any:
        """Writes the value of a constant of the module; notes which modules are used."""
        if not isinstance(node.ctx, ast.Load) or node.id in self._bound:
            return node
        if node.id not in self._outside and hasattr(builtins, node.id) and node.id != "super":
            return node
        value = self._outside.get(node.id, self)
        if isinstance(value, ModuleType):
            self._require_foreign(value.__name__)
            self.modules[node.id] = value.__name__
            return node
        return self._constant(value, node.id)

    def _constant(self, value: Any, text: str) -> ast.expr:
        entries = value if isinstance(value, tuple) else (value,)
        require(
            all(map(_is_constant, entries)), f"{self._cannot} uses {text}: write it in the method, with constants alone"
        )
        return ast.parse(repr(value), mode="eval").body

    def _require_foreign(self, module: str) -> None:
        require(
            module.partition(".")[0] not in _PROJECT,
            f"{self._cannot} imports {module} of this project: write it in the method",
        )

    @property
    def _cannot(self) -> str:
        return f"position scheme {self._scheme.name} cannot be exported: positions()"
