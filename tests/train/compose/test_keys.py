"""Every key of a run has a meaning, and is listed with the default and the type that it has."""

import dataclasses
import typing

from train.compose.groups import default_options
from train.compose.keys import config_keys, field_meanings, named_parts
from train.config import RunConfig


def config_dataclasses(root: type) -> set[type]:
    """Returns `root` and every dataclass within it, those in dicts and optional ones included."""
    found = {root}
    for hint in typing.get_type_hints(root).values():
        for candidate in (hint, *typing.get_args(hint)):
            if isinstance(candidate, type) and dataclasses.is_dataclass(candidate):
                found |= config_dataclasses(candidate)
    return found


def test_every_field_of_every_config_dataclass_has_a_meaning() -> None:
    components = {field.name for field in dataclasses.fields(RunConfig) if field.name in default_options()}
    missing = {
        f"{dataclass.__name__}.{field.name}"
        for dataclass in config_dataclasses(RunConfig)
        for field in dataclasses.fields(dataclass)
        if not field_meanings(dataclass).get(field.name)
    }
    assert missing == {f"RunConfig.{name}" for name in components}  # their dataclasses say it
    assert all(row.meaning for row in config_keys())


def test_a_key_has_its_default_its_type_and_its_meaning() -> None:
    rows = {row.key: row for row in config_keys()}
    shown = {key: (row.default, row.type) for key, row in rows.items()}
    assert shown["optimizer.betas"] == ("[0.9, 0.95]", "list of number")
    assert shown["micro_batch_size"] == ("4", "integer | null")
    assert shown["engine.precision"] == ("bf16", "auto | bf16 | fp32")
    assert shown["mask_documents"] == ("false", "true | false")
    assert shown["guard"] == ("default", "default | spikes")
    assert shown["name"] == ("required", "text") and shown["data.root"][0] == '""'
    assert shown["experiment"][0] == "required" and "repo-1b-50b" in shown["experiment"][1]
    assert shown["data.sources.NAME.weight"] == ("0.0", "number") and "data.sources" in named_parts()
    assert shown["positions.yarn.factor"] == ("4.0", "number")
    assert rows["guard.window"].meaning == "Applied updates that the next one is compared with."
    assert len(shown) == len(config_keys())


@dataclasses.dataclass
class Example:
    """A dataclass with all forms of meanings."""

    one: int = 0
    """One line. With a second sentence."""
    several: int = 0
    """A first sentence that goes
    on. A second one.

    A second paragraph.
    """
    none: int = 0  # no literal


@dataclasses.dataclass
class Child(Example):
    """Inherits fields and their meanings."""

    one: int = 1
    """Said again."""


def test_a_meaning_is_the_only_line_or_the_first_sentence() -> None:
    several = "A first sentence that goes on."
    assert field_meanings(Example) == {"one": "One line. With a second sentence.", "several": several}
    assert field_meanings(Child) == {"one": "Said again.", "several": several}
