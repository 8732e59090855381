"""Numbers with their nouns, and values as configs have them."""

from collections.abc import Mapping
from enum import Enum
from typing import Any


def counted(number: int, noun: str) -> str:
    """Returns a number and its noun, in the plural for all numbers but one: `1 rank`, `8 ranks`, `2 batches`."""
    plural = "es" if noun.endswith(("ch", "sh", "s", "x")) else "s"
    return f"{number:,} {noun}" + ("" if number == 1 else plural)


def config_text(value: Any) -> str:
    """Returns a value of a config as YAML has it: `null`, `true`, `[rope, nope]`."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Enum):
        return str(value.value)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {config_text(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(config_text, value))}]"
    return str(value) if value != "" else '""'
