"""One sentence for what Hydra or OmegaConf found wrong: the file or key, what was expected, what to type.

Hydra reports a mistake over several lines, with the reason in the middle and without a suggestion. Its errors carry no
fields, so the facts are taken from their text.
"""

import re
from pathlib import Path

from hydra.errors import OverrideParseException

from train.compose.groups import CONFIG_FOLDER, groups, options, outside_files
from train.compose.keys import config_keys, with_placeholder
from train.compose.names import closest_keys, did_you_mean

_TYPOGRAPHIC = {
    "\u2013": "--",
    "\u2014": "--",
    "\u201c": '"',
    "\u201d": '"',
    "\u201e": '"',
    "\u2018": "'",
    "\u2019": "'",
}
"""What text editors and web pages put in place of dashes and quotes."""
_KINDS = {"Integer": "a whole number", "Float": "a number", "Boolean": "true or false", "Path": "a path"}
"""OmegaConf's name of a type -> what people type."""


def explain(error: Exception) -> str:
    """Returns one sentence for an error of Hydra or OmegaConf."""
    text = f"{error}\n{error.__cause__ or ''}"
    if isinstance(error, OverrideParseException):
        return malformed(error.override)
    if missing := re.search(r"Could not find '([^']+)'", text):
        return no_option(*_group_and_option(missing[1]))
    if missing := re.search(r"You must specify '([^']+)'", text):
        return no_option(missing[1], "")
    if isinstance(error, AssertionError | AttributeError):  # OmegaConf's, for a key below one that is null
        return "the overrides set a key below one that is null: add the group first, as in +positions/yarn=default"
    return f"{_file(text)}{_reason(error, text)}"


def malformed(override: str) -> str:
    """Returns what is wrong with an argument that Hydra cannot parse."""
    key, equals, value = override.partition("=")
    if "\n" in override:
        return f"{override!r} has a line break: write it in one line"
    if set(override) & set(_TYPOGRAPHIC):
        plain = "".join(_TYPOGRAPHIC.get(letter, letter) for letter in override)
        return f"{override!r} has dashes or quotes of a text editor: type them again, as in {plain}"
    if value.startswith("~"):
        return f"the shell does not replace ~ behind an '=': write {key}=$HOME{value[1:]}"
    if equals and key != key.strip():
        return f"{override!r} has a space before '=': write {key.strip()}={value}"
    if equals and re.fullmatch(r",.*|.*,|.*,,.*", value):
        return f"the value in {override!r} has a comma too much: write {key}=A,B"
    if unknown := re.fullmatch(r"([a-z]\w*)\(.*\)", value):
        return f"there is no function {unknown[1]!r} for values: list them, as in {key}=A,B, or use range(1,5)"
    if key and value.startswith(("{", "[", "'", '"')):
        return f"the value in {override!r} cannot be read: check its brackets and quotes"
    if key and equals:
        return f"""the value in {override!r} has characters that need quotes: '{key}="{value}"'"""
    if override in options("experiment"):
        hint = f"; did you mean experiment={override}?"
    elif Path(override).is_dir():
        hint = ": this is a folder; a run is described by its settings, such as experiment=demo name=demo"
    elif is_known(override):
        hint = f": write {override}=VALUE, without spaces"
    elif ":" in override and is_known(override.partition(":")[0]):
        hint = f": write {override.replace(':', '=', 1)}"
    else:
        hint = ""
    return f"{override!r} is not of the form key=value{hint}"


def is_known(key: str) -> bool:
    """Returns whether a key or a group is called so."""
    return key in groups() or any(row.key == key for row in config_keys())


def no_option(group: str, option: str) -> str:
    """Returns what is wrong with a choice that does not exist; an empty `option`: none was made."""
    choices = options(group)
    if group.startswith("hydra/"):
        return (
            f"there is no {group}={option} here: launch=slurm makes a sweep an array job, and launch.parallel says how "
            "many of its runs this machine trains at once"
        )
    if choices and "/" in option:
        return _path_as_option(group, option)
    if not choices:
        return f"there is no config group {group!r}{did_you_mean(group)}"
    if group == "wandb" and option in ("off", "false", "none", "null", "disabled", "offline", "online"):
        return f"there is no wandb={option}: set wandb.mode=offline, online or disabled"
    if not option:
        return f"{group} is not given; choose one of {', '.join(choices)}, for example {group}={choices[0]}"
    return f"there is no {group}={option}; choose one of {', '.join(choices)}"


def _group_and_option(name: str) -> tuple[str, str]:
    """Returns the two parts of `GROUP/OPTION`; the option may be a path."""
    within = [group for group in groups() if name.startswith(f"{group}/")]
    group = max(within, key=len) if within else name.rpartition("/")[0]
    return group, name[len(group) + 1 :]


def _path_as_option(group: str, given: str) -> str:
    """Returns what is wrong with a path that is no YAML file in place of an option."""
    is_folder = Path(given).is_dir()
    folder = given.rstrip("/") if is_folder else str(Path(given).parent).rstrip("/")
    what = "a folder" if is_folder else "no YAML file"
    hint = f"; the folder of the data itself is data.root={given}" if is_folder and group == "data" else ""
    return (
        f"{group}: {given} is {what}; give the path of a YAML file, as in {group}={folder}/mine.yaml, or one of "
        f"{', '.join(options(group))}{hint}"
    )


def _file(text: str) -> str:
    """Returns `configs/data/mine.yaml: ` where the error is in that file; else nothing."""
    found = re.search(r"In '([^']+)': \w+ raised while composing config", text)
    if found and found[1] in outside_files():
        return f"{outside_files()[found[1]]}: "
    path = CONFIG_FOLDER / f"{found[1]}.yaml" if found else None
    return f"{Path(CONFIG_FOLDER.name) / path.relative_to(CONFIG_FOLDER)}: " if path and path.is_file() else ""


def _reason(error: Exception, text: str) -> str:
    found = re.search(r"full_key: (\S+)", text)
    full_key = found[1] if found else None
    unknown = re.search(r"Key '([^']+)' (?:is )?not in", text) or re.search(r"Could not override '([^']+)'", text)
    if unknown:
        key = full_key or unknown[1]
        if key in groups():
            return f"{key} is not among the groups of this run: add it with a plus, as in +{key}={options(key)[0]}"
        typed = re.search(r"Could not override '([^']+)'", text)
        whole = typed[1] if typed and typed[1].startswith(f"{key}.") and not closest_keys(key) else key
        return f"there is no config key {whole!r}{did_you_mean(whole)}"
    if mistyped := re.search(r"is not a subclass of \w+\. value: (.*)", text):
        return f"{mistyped[1]} is given where keys belong: {', '.join(_keys_below(full_key or ''))}"
    if full_key and "is not a ListConfig, list or tuple" in text:
        return f"{full_key} takes a list, as in '{full_key}=[...]'"
    if full_key and "does not support deletion" in text:
        return f"{full_key} cannot be deleted: set it to another value"
    if full_key and (wrong := re.search(r"Value '(.*)' of type '\w+' could not be converted to (\w+)", text)):
        whole = re.fullmatch(r"(-?\d+)\.0", wrong[1]) if wrong[2] == "Integer" else None
        hint = f": write {full_key}={whole[1]}" if whole else ""
        if listed := re.fullmatch(r"\[(.+)\]", wrong[1]):
            hint = f": for a run of each, write -m {full_key}={listed[1].replace(', ', ',')}"
        return f"{full_key} takes {_KINDS.get(wrong[2], wrong[2])}, and {wrong[1]!r} is none{hint}"
    if full_key and (wrong := re.search(r"Value '(.*)' is not a valid bool", text)):
        return f"{full_key} takes true or false, and {wrong[1]!r} is none"
    if twice := re.search(r"^(\S+) appears more than once", text):
        return f"{twice[1]} has an option already: write {twice[1]}=... without a plus"
    lines = [line.strip() for line in f"{error.__cause__ or error}".splitlines() if line.strip()] or [repr(error)]
    if re.search(r"raised while composing config:$", lines[0]) and len(lines) > 1:
        lines = lines[1:]
    return f"{full_key}: {lines[0]}" if full_key else lines[0].rstrip(".")


def _keys_below(key: str) -> list[str]:
    """Returns the keys right below `key`, or below the names in it: `data.sources.NAME.files`."""
    owners = {with_placeholder(key)[0], f"{key}.NAME"}
    return [row.key for row in config_keys() if row.key.rpartition(".")[0] in owners]
