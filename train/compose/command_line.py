"""The arguments of a command line, checked and put into the form that Hydra wants.

Hydra's own parser wants options first, answers a wrong option with its usage, and takes names of sources that are not
in the config for mistakes.
"""

import difflib
import re
from collections.abc import Iterator, Sequence

from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from train.compose.errors import malformed, no_option
from train.compose.groups import CONFIG_FOLDER, groups
from train.compose.keys import config_keys, named_parts
from train.compose.names import NO_KEY, OTHER_NAMES
from train.errors import TrainError

SWEEP = "sweep="
"""How the name of a sweep is given, a file in configs/sweep/."""
MULTIRUN = ("-m", "--multirun")
FLAGS = (*MULTIRUN, "-r", "--run", "--resolve", "--version", "--hydra-help")
CFG = ("job", "hydra", "all")
INFO = ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")
WITH_VALUE = {"-c": CFG, "--cfg": CFG, "-i": INFO, "--info": INFO, "-p": (), "--package": ()}
"""Options that take a value, and the choices for it; none: any value."""


def is_sweep(argv: Sequence[str]) -> bool:
    """Returns whether the arguments ask for a sweep: by -m, or by the name of one."""
    return bool(set(MULTIRUN) & set(argv)) or any(argument.startswith(SWEEP) for argument in argv)


def overrides_of(argv: Sequence[str]) -> list[str]:
    """Returns the `key=value` among the arguments."""
    return [argument for argument in argv if not argument.startswith("-") and "=" in argument]


def for_hydra(argv: Sequence[str]) -> list[str]:
    """Returns the arguments as Hydra takes them. Raises TrainError for what no config can be composed from."""
    given, option = [], []
    rest = iter(argv)
    for argument in rest:
        if argument.startswith("-"):
            option += _checked_option(argument, rest)
        else:
            given.append(_checked_override(argument, is_sweep(argv)))
    chosen = [override for override in given if override.key_or_group == "experiment"]
    if len(chosen) > 1:
        raise TrainError(
            f"{' and '.join(str(one.input_line) for one in chosen)}: a run has one experiment, leave one out"
        )
    if is_sweep(argv) and {"--cfg", "-c"} & {word.partition("=")[0] for word in option}:
        raise TrainError("--cfg prints one config: leave out -m, and give each key one value")
    return [*option, *_with_named_keys(given)]


def _checked_option(argument: str, rest: Iterator[str]) -> list[str]:
    """Returns an option with its value, which may be the next argument of `rest`."""
    name, equals, value = argument.partition("=")
    if name in FLAGS and not equals:
        return [argument]
    if name in FLAGS:
        raise TrainError(f"option {name} takes no value")
    if name in WITH_VALUE:
        words = [argument] if equals else [argument, value := next(rest, "")]
        choices = WITH_VALUE[name]
        if not value or (choices and value not in choices):
            expected = f"one of {', '.join(choices)}, as in {name} {choices[0]}" if choices else "a value"
            raise TrainError(f"option {name} needs {expected}")
        return words
    raise TrainError(no_such_option(argument, [*FLAGS, *WITH_VALUE, "--dry-run", "--help"]))


def no_such_option(argument: str, known: Sequence[str]) -> str:
    """Returns what is wrong with an option that does not exist, with the closest of those that do."""
    name, equals, _ = argument.partition("=")
    if equals and name in known:
        return f"option {name} takes no value"
    if other := OTHER_NAMES.get(name.lstrip("-").replace("-", "_")):
        return f"there is no option {name}; set the key {other}=VALUE"
    if instead := NO_KEY.get(name.lstrip("-").replace("-", "_")):
        return f"there is no option {name}: {instead}"
    words = [option for option in known if option.startswith("--")]
    close = difflib.get_close_matches(name.lower().replace("_", "-"), words, n=1, cutoff=0.8)
    if close and not equals:
        return f"there is no option {name}; did you mean {close[0]}?"
    example = argument.lstrip("-") if equals else "experiment=demo"
    return f"there is no option {name}; keys are set without a dash, as in {example}"


def _checked_override(argument: str, sweep: bool) -> Override:
    try:
        override = OverridesParser.create().parse_override(argument)
    except HydraException:
        raise TrainError(malformed(argument)) from None
    key = override.key_or_group
    if not key:
        raise TrainError(malformed(argument))
    if override.is_sweep_override():
        if not sweep:
            text = argument.partition("=")[2]
            if re.fullmatch(r"\d{1,3}(,\d{3})+", text):
                plain = text.replace(",", "." if text.startswith("0,") else "")
                raise TrainError(f"{argument} has commas in a number: write {key}={plain}")
            as_list = f", or write '{key}=[{text}]' for a list" if key not in groups() else ""
            raise TrainError(f"{argument} gives several values: add -m to run each{as_list}")
    elif key in groups() and not override.is_delete():
        value = override.value()
        if value == "":
            raise TrainError(no_option(key, ""))
        if not isinstance(value, str | list | dict):
            keys = [row.key for row in config_keys() if row.key.startswith(f"{key}.")]
            wrong = no_option(key, argument.partition("=")[2])
            raise TrainError(wrong if "set " in wrong else f"{wrong}, or set a key of it: {', '.join(keys[:3])} ...")
    return override


def _with_named_keys(given: Sequence[Override]) -> list[str]:
    """Returns the overrides, with those of named parts in a form that may name a new one.

    `data.sources={mine: {...}}` replaces all sources; `data.sources.mine.weight=1` sets a key of one, old or new. To
    Hydra, the first adds to what there is, and both are wrong for a name that is not there.
    """
    lines: list[str] = []
    replaced: set[str] = set()
    for override in given:
        line, key = override.input_line or "", override.key_or_group
        owner = next((name for name in named_parts() if f"{key}.".startswith(f"{name}.")), None)
        if owner is None or override.is_delete() or override.is_sweep_override():
            lines.append(line)
        elif key == owner:
            if override.type is OverrideType.CHANGE and owner not in replaced:
                lines += [f"~{owner}.{name}" for name in _names_in(owner, given)]
                replaced.add(owner)
            lines.append(f"++{line.lstrip('+')}")
        else:
            value = line.partition("=")[2]
            for part in reversed(key.removeprefix(f"{owner}.").split(".")):
                value = f"{{{part}: {value}}}"
            lines.append(f"++{owner}={value}")
    return lines


def _names_in(owner: str, given: Sequence[Override]) -> list[str]:
    """Returns the names that a dict of dataclasses has without the overrides of its own."""
    others = [override for override in given if not f"{override.key_or_group}.".startswith(f"{owner}.")]
    try:
        with initialize_config_dir(str(CONFIG_FOLDER), version_base="1.3"):
            lines = [override.input_line or "" for override in others if not override.is_sweep_override()]
            named = OmegaConf.select(compose("config", lines), owner)
    except (HydraException, OmegaConfBaseException):
        return []  # Hydra will meet the same error, and report it
    return [str(name) for name in named] if isinstance(named, DictConfig) else []
