"""The members of a sweep: every combination of the values that a command line or a file of `configs/sweep/` gives.

All members are composed and checked before the first one starts. Hydra parses and composes; its sweeper is not used,
as it ignores exit codes and starts every member in the launcher's own process.
"""

import hashlib
import itertools
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from data.fetch.credentials import take_credentials
from train.compose.app import reported
from train.compose.command_line import MULTIRUN, SWEEP, for_hydra, overrides_of
from train.compose.groups import CONFIG_FOLDER, options
from train.compose.many import Composer
from train.compose.outside import SUFFIXES, as_given, with_registered_files
from train.compose.renamed import with_new_names
from train.config import RunConfig
from train.errors import TrainError

FOLDER = CONFIG_FOLDER / "sweep"
MAX_NAME = 120  # characters; a longer name ends in a hash instead


@dataclass(frozen=True)
class Member:
    """One run of a sweep."""

    config: RunConfig
    swept: dict[str, str]
    """Value of each key that the sweep varies, as on the command line."""
    arguments: list[str]
    """What to give to `python -m launch` to start this run alone."""
    sweep: str
    """Name of the sweep: what its members are called together."""
    base: str
    """What the names of all members begin with."""


def sweep_app(task: Callable[[list[Member]], int]) -> int:
    """Composes the members that sys.argv gives, and calls `task` with them.

    Returns the task's exit code; EXIT_USER_ERROR after one line on standard error, and without a call, when the command
    line or the config of one member is wrong.
    """
    return reported(lambda: task(compose_members([take_credentials(argument) for argument in sys.argv[1:]])))


def compose_members(argv: Sequence[str]) -> list[Member]:
    """Returns all members, the first key varying slowest.

    Raises UserError that names the member if one cannot be composed, if its config is wrong, or if two would share a
    folder; and for a sweep that varies what cannot be, or nothing.
    """
    argv = with_new_names(with_registered_files(argv))
    given = [argument for argument in argv if not argument.startswith(SWEEP)]
    presets = [argument.removeprefix(SWEEP) for argument in argv if argument.startswith(SWEEP)]
    keys = {argument.partition("=")[0].lstrip("+~") for argument in overrides_of(given)}
    files = {preset: _preset(preset) for preset in presets}
    from_files = [line for file in files.values() for line in (*file.varied, *file.fixed)]
    from_files = [line for line in from_files if line.partition("=")[0] not in keys]
    lines = for_hydra([*given, "-m", *from_files])
    if extra := [line for line in lines if line.startswith("-") and line not in MULTIRUN]:
        raise TrainError(f"a sweep takes no option {extra[0]}: leave it out, or leave out what makes it a sweep")
    overrides = OverridesParser.create().parse_overrides([line for line in lines if not line.startswith("-")])
    varied = [override for override in overrides if override.is_sweep_override()]
    _check_varied(varied, files, keys)
    fixed = [argument for argument in given if not argument.startswith("-") and not _is_varied(argument, varied)]
    fixed += [line for line in from_files if not _is_varied(line, varied)]
    points = itertools.product(*(_values(override) for override in varied))
    composer = Composer([override.input_line or "" for override in overrides if not override.is_sweep_override()])
    title = "-".join(Path(preset).stem for preset in presets) or "-".join(_plain_key(override) for override in varied)
    members = [_member(composer, fixed, point, title) for point in points]
    names = [member.config.name for member in members]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise TrainError(f"two members of this sweep would be called {twice}: give each value once")
    return members


def _check_varied(varied: Sequence[Override], files: Mapping[str, "_Preset"], by_hand: set[str]) -> None:
    """Raises TrainError for a key that no sweep can vary, and for a named sweep whose keys all have a value by hand.

    `files` has the named sweeps, `by_hand` the keys of the command line.
    """
    if launch := next((override for override in varied if f"{override.key_or_group}.".startswith("launch.")), None):
        raise TrainError(
            f"{launch.input_line}: launch keys say how runs are started, and cannot be swept; start a sweep for each"
        )
    several = {override.key_or_group for override in varied}
    for preset, file in files.items():
        own = [line.partition("=")[0] for line in file.varied]
        if set(own) <= by_hand and not set(own) & several:
            raise TrainError(
                f"{' and '.join(own)}: one value is given by hand, and {SWEEP}{preset} varies nothing else: leave one "
                "out, or list several values"
            )


def _member(composer: Composer, fixed: list[str], point: Sequence[str], title: str) -> Member:
    words = " ".join(point)
    config = composer.config(point, f" (in the member {words})" if words else "")
    swept = dict(line.lstrip("+~").split("=", 1) for line in point)
    base = config.name
    sweep = f"{base}-{title}" if title else base
    config.name = _name(base, swept)
    arguments = [*as_given([*fixed, *point]), f"name={config.name}"]
    if title and not any(argument.startswith("wandb.group=") for argument in fixed):
        config.wandb.group = sweep
        arguments.append(f"wandb.group={sweep}")
    return Member(config, swept, arguments, sweep, base)


def _name(base: str, swept: dict[str, str]) -> str:
    """Returns the name of a member: it says what varies, and does not depend on the other members."""
    parts = [re.sub(r"[^\w.+-]", "_", f"{key}={value}") for key, value in swept.items() if key != "name"]
    name = "-".join([base, *parts])
    if len(name) <= MAX_NAME:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    return f"{name[: MAX_NAME - 9]}-{digest}"


def read_preset(name: str) -> dict[str, Any]:
    """Returns what a file of configs/sweep/ holds, or one with a path. Raises TrainError."""
    path = Path(name).expanduser() if name.endswith(SUFFIXES) else FOLDER / f"{name}.yaml"
    if not path.is_file():
        choices = ", ".join(options("sweep"))
        raise TrainError(f"there is no {SWEEP}{name}; choose one of {choices}, or use -m key=value,value")
    try:
        values = OmegaConf.to_container(OmegaConf.load(path))
    except (OmegaConfBaseException, yaml.YAMLError, UnicodeDecodeError) as error:
        raise TrainError(f"{path}: {str(error).strip().partition(chr(10))[0]}") from error
    if not isinstance(values, dict) or not values:
        raise TrainError(f"{path} has no keys: write `key: [value, value]` lines, as in configs/sweep/")
    return {str(key): value for key, value in values.items()}


@dataclass(frozen=True)
class _Preset:
    """A file of configs/sweep/, as on the command line."""

    varied: list[str]
    """`key=value,value` of each key that it varies."""
    fixed: list[str]
    """`key=value` of the others."""


def _preset(name: str) -> _Preset:
    """Returns what a file of configs/sweep/ says. Raises TrainError."""
    values = read_preset(name)
    if wrong := next((key for key, value in values.items() if isinstance(value, dict)), None):
        raise TrainError(f"{SWEEP}{name}: {wrong} is no list: write `{wrong}: [value, value]`")
    lists = {key: value for key, value in values.items() if isinstance(value, list)}
    if not lists:
        raise TrainError(f"{SWEEP}{name} varies nothing: write lists, as in `{next(iter(values))}: [value, value]`")
    varied = [f"{key}={','.join(map(_typed, listed))}" for key, listed in lists.items()]
    fixed = [f"{key}={_typed(value)}" for key, value in values.items() if key not in lists]
    return _Preset([take_credentials(line) for line in varied], [take_credentials(line) for line in fixed])


def _typed(value: Any) -> str:
    return "null" if value is None else str(value)


def _values(override: Override) -> list[str]:
    """Returns `key=value` for each value. Raises TrainError for a range without steps."""
    if not override.is_discrete_sweep():
        raise TrainError(f"{override.input_line} has no end of values: list them, as in {override.key_or_group}=1,2")
    return [f"{override.get_key_element()}={value}" for value in override.sweep_string_iterator()]


def _is_varied(argument: str, varied: Sequence[Override]) -> bool:
    return any(argument == override.input_line for override in varied)


def _plain_key(override: Override) -> str:
    return override.key_or_group.rpartition(".")[2].replace("/", ".")
