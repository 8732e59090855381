"""Every key of a run with its default, type and meaning, read from the config dataclasses.

A field's meaning is the string literal below it in the source; Python drops these, so they are read with `ast`.
"""

import ast
import dataclasses
import functools
import inspect
import textwrap
import types
import typing
from collections.abc import Iterator
from enum import Enum
from typing import Any

from omegaconf import MISSING

from common.words import config_text
from model.positions import LIST, PATTERNS, SCHEMES
from train.compose.groups import default_options, options
from train.config import RunConfig

PLAIN_TYPES = {int: "integer", float: "number", str: "text", bool: "true | false", type(None): "null"}


REGISTERED = {"positions.scheme": (*SCHEMES, *PATTERNS, LIST)}
"""Names that a text has to be one of, by key."""


@dataclasses.dataclass(frozen=True)
class ConfigKey:
    """One key, as the command line has it: `optimizer.lr`. NAME in a key stands for a name of the user's choice."""

    key: str
    default: str
    """As YAML has it; `required` where there is none."""
    type: str
    """In words, with the choices of an enum, a group or a registry."""
    meaning: str
    """One sentence."""

    @property
    def choices(self) -> list[str]:
        """Returns the values that it may have, apart from null; none where they cannot be listed."""
        words = self.type.split(" | ")
        return [word for word in words if word not in PLAIN_TYPES.values() and " " not in word]


@functools.cache
def config_keys() -> tuple[ConfigKey, ...]:
    """Returns the keys of RunConfig and its groups, in the order of the fields."""
    return (_group_key("experiment", "What to run: a recipe."), *_keys_of(RunConfig, ""))


@functools.cache
def named_parts() -> tuple[str, ...]:
    """Returns the keys whose value is a dataclass per name, such as `data.sources`; cheap, as every start asks."""
    return tuple(_named_parts_of(RunConfig, ""))


def _named_parts_of(dataclass: type, prefix: str) -> Iterator[str]:
    for name, hint in typing.get_type_hints(dataclass).items():
        inner = _dataclass_in(hint)
        if inner is not None and typing.get_origin(hint) is dict:
            yield f"{prefix}{name}"
        elif inner is not None:
            yield from _named_parts_of(inner, f"{prefix}{name}.")


def with_placeholder(key: str) -> tuple[str, str]:
    """Returns a key with NAME in place of a name of the user's choice, and that name, or an empty one.

    `data.sources.web.weight` gives `data.sources.NAME.weight` and `web`.
    """
    for owner in named_parts():
        if key.startswith(f"{owner}."):
            name, dot, below = key.removeprefix(f"{owner}.").partition(".")
            return f"{owner}.NAME{dot}{below}", name
    return key, ""


@functools.cache
def field_meanings(dataclass: type) -> dict[str, str]:
    """Returns the first sentence of the string literal below each field, for fields that have one."""
    meanings: dict[str, str] = {}
    for owner in reversed(dataclass.__mro__):
        if dataclasses.is_dataclass(owner):
            meanings |= _own_meanings(owner)
    return meanings


def _own_meanings(dataclass: type) -> dict[str, str]:
    tree = ast.parse(textwrap.dedent(inspect.getsource(dataclass)))
    definition = tree.body[0]
    assert isinstance(definition, ast.ClassDef)
    meanings = {}
    for statement, below in zip(definition.body, definition.body[1:], strict=False):
        if not (isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name)):
            continue
        if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant) and isinstance(below.value.value, str):
            meanings[statement.target.id] = _first_sentence(below.value.value)
    return meanings


def _first_sentence(docstring: str) -> str:
    """Returns a docstring's only line, or the first sentence of its first paragraph."""
    lines = [line.strip() for line in docstring.strip().partition("\n\n")[0].splitlines()]
    if len(lines) == 1:
        return lines[0]
    first, dot, _ = " ".join(lines).partition(". ")
    return first + dot.strip()


def _keys_of(dataclass: type, prefix: str) -> Iterator[ConfigKey]:
    hints = typing.get_type_hints(dataclass)
    meanings = field_meanings(dataclass)
    for field in dataclasses.fields(dataclass):
        key, hint, meaning = f"{prefix}{field.name}", hints[field.name], meanings.get(field.name, "")
        inner = _dataclass_in(hint)
        if inner is hint:
            if key in default_options():
                yield _group_key(key, _first_sentence(inspect.getdoc(inner) or ""))
        else:
            words = " | ".join(REGISTERED[key]) if key in REGISTERED else _type_in_words(hint)
            yield ConfigKey(key, _written(_default(field)), words, meaning)
        if inner is not None:
            is_dict = typing.get_origin(hint) is dict
            yield from _keys_of(inner, f"{key}.NAME." if is_dict else f"{key}.")


def _group_key(group: str, meaning: str) -> ConfigKey:
    chosen = default_options()[group]
    return ConfigKey(group, "required" if chosen == MISSING else chosen, " | ".join(options(group)), meaning)


def _dataclass_in(hint: Any) -> type | None:
    """Returns the dataclass of `Config`, `Config | None` or `dict[str, Config]`; None for anything else."""
    for candidate in (hint, *typing.get_args(hint)):
        if isinstance(candidate, type) and dataclasses.is_dataclass(candidate):
            return candidate
    return None


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def _written(value: Any) -> str:
    """Returns a default as YAML has it."""
    return "required" if value == MISSING else config_text(value)


def _type_in_words(hint: Any) -> str:
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        return " | ".join(map(_type_in_words, typing.get_args(hint)))
    if typing.get_origin(hint) is list:
        [item] = typing.get_args(hint)
        words = _type_in_words(item)
        return f"list of ({words})" if "|" in words else f"list of {words}"
    if typing.get_origin(hint) is dict:
        return "keys below NAME, for each name"
    if isinstance(hint, type) and issubclass(hint, Enum):
        return " | ".join(str(choice.value) for choice in hint)
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return "keys below"
    return PLAIN_TYPES[hint]
