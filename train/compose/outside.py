"""Config files outside configs/: one by its path, as in `data=../mine.yaml`, or a folder of them.

    --config-dir DIR      DIR/data/mine.yaml can be chosen as data=mine, and so on for every group

Hydra finds options by name in folders that it knows. A file is registered under a name like a dataclass is (groups.py),
and the argument is changed to that name; `as_given` is the way back, for commands that are printed or started.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from train.compose.groups import groups, options, outside_files
from train.errors import TrainError

OPTIONS = ("--config-dir", "-cd")
SUFFIXES = (".yaml", ".yml")
SWEEP = "sweep"
PACKAGE = re.compile(r"^\s*#\s*@package\s+(\S+)", re.MULTILINE)

_given: dict[str, str] = {}  # argument with a name -> the same with the path
_folders: list[str] = []


def with_registered_files(argv: Sequence[str]) -> list[str]:
    """Returns the arguments with names in place of paths, and without folders; raises TrainError."""
    kept: list[str] = []
    rest = iter(argv)
    _folders.clear()
    for argument in rest:
        name, equals, value = argument.partition("=")
        if name in OPTIONS:
            _register_folder(value if equals else next(rest, ""))
        elif (
            name.lstrip("+") in groups() and name != SWEEP and any(part.endswith(SUFFIXES) for part in value.split(","))
        ):
            group, parts = name.lstrip("+"), value.split(",")
            names = [_registered(group, part) if part.endswith(SUFFIXES) else part for part in parts]
            for own, part in zip(names, parts, strict=True):
                _given[f"{name}={own}"] = f"{name}={part}"
            kept.append(f"{name}={','.join(names)}")
            _given[kept[-1]] = argument
        else:
            kept.append(argument)
    return kept


def as_given(arguments: Sequence[str]) -> list[str]:
    """Returns the arguments as they were typed: with paths in place of names, and with folders."""
    return [
        *(f"{OPTIONS[0]}={folder}" for folder in _folders),
        *(_given.get(argument, argument) for argument in arguments),
    ]


def _registered(group: str, given: str) -> str:
    """Registers a file as an option of a group; returns its name."""
    path = Path(given).expanduser().absolute()
    if not path.is_file():
        raise TrainError(
            f"{group}: there is no file {given}; give the path of a YAML file, or one of {', '.join(options(group))}"
        )
    stem = re.sub(r"[^\w.-]", "_", path.stem)
    taken = [name for name in options(group) if outside_files().get(f"{group}/{name}") != path]
    name = next(name for name in _numbered(stem) if name not in taken)
    _store(group, name, path)
    return name


def _register_folder(given: str) -> None:
    if not given:
        raise TrainError(f"option {OPTIONS[0]} needs a folder of config files, as in {OPTIONS[0]} mine")
    folder = Path(given).expanduser().absolute()
    files = [path for group in groups() for path in sorted((folder / group).glob("*.yaml"))]
    if not files:
        raise TrainError(
            f"--config-dir {given}: there is no GROUP/NAME.yaml in it, such as {folder / 'data' / 'mine.yaml'}"
        )
    for path in files:
        group = path.parent.relative_to(folder).as_posix()
        if path.stem in options(group) and outside_files().get(f"{group}/{path.stem}") != path:
            raise TrainError(f"--config-dir {given}: there is a {group}={path.stem} in configs/ already: rename {path}")
        _store(group, path.stem, path)
    _folders.append(given)


def _store(group: str, name: str, path: Path) -> None:
    try:
        text = path.read_text()
        node = OmegaConf.create(text)
    except (OSError, UnicodeDecodeError, yaml.YAMLError, OmegaConfBaseException) as error:
        raise TrainError(f"{path}: {str(error).strip().partition(chr(10))[0]}") from error
    if not isinstance(node, DictConfig):
        raise TrainError(f"{path} has no keys: write `key: value` lines, as in configs/{group}/")
    package = PACKAGE.search(text)
    ConfigStore.instance().store(group=group, name=name, node=node, package=package[1] if package else None)
    outside_files()[f"{group}/{name}"] = path


def _numbered(name: str) -> Iterator[str]:
    yield name
    number = 2
    while True:
        yield f"{name}-{number}"
        number += 1
