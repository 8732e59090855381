"""A search: what a file of `configs/sweep/` with a `space` declares, and the config of each of its trials.

All that the space can give is composed and checked before the first trial starts, key by key: the ends of each range,
and each choice. What chooses the points is launch/search's.
"""

import copy
import dataclasses
import math
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser

from data.fetch.credentials import take_credentials
from report.comparison import IGNORED, flat
from train.compose.app import reported
from train.compose.command_line import MULTIRUN, SWEEP, for_hydra, overrides_of
from train.compose.many import Composer
from train.compose.outside import as_given, with_registered_files
from train.compose.renamed import with_new_names
from train.compose.sweep import Member, read_preset
from train.config import RunConfig
from train.errors import TrainError
from train.launch_config import LaunchWay

PARTS = ("search", "space", "first")
SETTINGS = "launch.search."
RANGE_FIELDS = ("low", "high", "log", "step")
NOT_SEARCHED = {
    "name": "trials are named after the study",
    "run_root": "all trials lie in one folder",
    "stop_step": "launch.search.rungs says where trials stop",
    "max_steps": "losses of trials of unequal length cannot be compared",
}

Value = None | bool | int | float | str
Point = dict[str, Value]


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both included."""

    low: int | float
    high: int | float
    log: bool = False
    step: int | float | None = None

    @property
    def ends(self) -> tuple[Value, ...]:
        """The values that are checked before a search starts."""
        return (self.low, self.high)

    @property
    def is_whole(self) -> bool:
        """Whether its numbers are whole."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    @property
    def values(self) -> list[Value] | None:
        """All values; None if they cannot be counted."""
        if self.is_whole:
            return list(range(int(self.low), int(self.high) + 1, int(self.step or 1)))
        if self.step is None:
            return None
        return [self.low + index * self.step for index in range(int((self.high - self.low) / self.step + 1e-9) + 1)]

    def holds(self, value: Value) -> bool:
        """Returns whether this is one of its numbers, not looking at `step`."""
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        return self.low <= value <= self.high and not (self.is_whole and isinstance(value, float))


@dataclass(frozen=True)
class Choices:
    """A list of values."""

    ends: tuple[Value, ...]

    @property
    def values(self) -> list[Value] | None:
        """All values."""
        return list(self.ends)

    def holds(self, value: Value) -> bool:
        """Returns whether this is one of the values."""
        return value in self.ends


@dataclass(frozen=True)
class Search:
    """A search, checked."""

    study: str
    """Name of the study, with which the names of all trials begin."""
    config: RunConfig
    """Of the trials, at the first point of the space; its name is the study's."""
    space: dict[str, Range | Choices]
    """What each key may be."""
    first: list[Point]
    """Points that are tried before all others."""
    given: list[str]
    """The arguments of a trial, as they were typed, without the point."""

    @property
    def size(self) -> int | None:
        """Number of different points; None if they cannot be counted."""
        values = [parameter.values for parameter in self.space.values()]
        return None if None in values else math.prod(len(listed) for listed in values if listed is not None)

    def name_of(self, number: int) -> str:
        """Returns the name of the run of a trial."""
        return f"{self.study}-trial-{number:03d}"

    def trial(self, number: int, point: Mapping[str, Value], stop_step: int | None) -> Member:
        """Returns a trial, up to a step; None: to its end.

        Its config has no value of the point: the run composes these itself, and a point that it refuses is a trial that
        fails.
        """
        config = copy.deepcopy(self.config)
        config.name, config.stop_step = self.name_of(number), stop_step
        arguments = [*as_given(self.given), *overrides(point), f"name={config.name}"]
        if stop_step is not None:
            arguments.append(f"stop_step={stop_step}")
        if not any(argument.startswith("wandb.group=") for argument in self.given):
            config.wandb.group = self.study
            arguments.append(f"wandb.group={self.study}")
        return Member(config, {key: written(value) for key, value in point.items()}, arguments, self.study, self.study)

    def definition(self) -> dict[str, Any]:
        """Returns all that makes it this search and no other, as flat plain data, without the number of trials."""
        config = {key: value for key, value in flat(self.config.as_plain()).items() if key.split(".")[0] not in IGNORED}
        settings = dataclasses.asdict(self.config.launch.search)
        del settings["trials"], settings["storage"]
        settings["sampler"] = self.config.launch.search.sampler.value
        space = {f"space.{key}": repr(parameter) for key, parameter in self.space.items()}
        for key in self.space:
            config.pop(key, None)
        return {
            **config,
            **{f"{SETTINGS}{key}": value for key, value in settings.items()},
            **space,
            "first": self.first,
        }


def is_search(argv: Sequence[str]) -> bool:
    """Returns whether the arguments ask for a search; what is wrong with a file is not said here."""
    try:
        return searched(argv) is not None
    except TrainError:
        return False


def searched(argv: Sequence[str]) -> str | None:
    """Returns the name of the first `sweep=` that declares a search; None if there is none. Raises TrainError."""
    names = [argument.removeprefix(SWEEP) for argument in argv if argument.startswith(SWEEP)]
    return next((name for name in names if set(PARTS) & read_preset(name).keys()), None)


def search_app(task: Callable[[Search], int]) -> int:
    """Composes the search that sys.argv gives, and calls `task` with it.

    Returns the task's exit code; EXIT_USER_ERROR after one line on standard error, and without a call, when the command
    line, the space, or the config of one point is wrong.
    """
    return reported(lambda: task(compose_search([take_credentials(argument) for argument in sys.argv[1:]])))


def compose_search(argv: Sequence[str]) -> Search:
    """Returns the search. Raises TrainError if a key, a range or what it gives is wrong, or if no loss is measured."""
    argv = with_new_names(with_registered_files(argv))
    presets = [argument.removeprefix(SWEEP) for argument in argv if argument.startswith(SWEEP)]
    preset = searched(argv)
    assert preset is not None
    if len(presets) > 1:
        raise TrainError(f"a search is a sweep of its own: give {SWEEP}{preset} alone")
    given = [argument for argument in argv if not argument.startswith(SWEEP) and argument not in MULTIRUN]
    file, where = read_preset(preset), f" (in {SWEEP}{preset})"
    keys = {argument.partition("=")[0].lstrip("+~") for argument in overrides_of(given)}
    space, first = _space(file, keys, where)
    settings = [
        f"{SETTINGS}{key}={value}" for key, value in file.get("search", {}).items() if f"{SETTINGS}{key}" not in keys
    ]
    lines = for_hydra([*given, *settings, "-m"])
    lines.remove("-m")
    parsed = OverridesParser.create().parse_overrides([line for line in lines if not line.startswith("-")])
    if varied := next((override.input_line for override in parsed if override.is_sweep_override()), None):
        raise TrainError(f"{varied} gives several values: in a search they are choices of `space`{where}")
    if option := next((line for line in lines if line.startswith("-")), None):
        raise TrainError(f"a search takes no option {option}")
    start: Point = {key: parameter.ends[0] for key, parameter in space.items()}
    composer = Composer(lines)
    config = composer.config(overrides(start), where)
    for key, parameter in space.items():
        for value in parameter.ends[1:]:
            composer.config(overrides({**start, key: value}), where)
    trials = [argument for argument in given if not argument.startswith((SETTINGS, "name="))]
    study = f"{config.name}-{Path(preset).stem}"
    config.name = study
    search = Search(study, config, space, first, trials)
    _check(search)
    return search


def overrides(point: Mapping[str, Value]) -> list[str]:
    """Returns a point as on the command line."""
    return [f"{key}={written(value)}" for key, value in point.items()]


def written(value: Value) -> str:
    """Returns a value as on the command line."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str) and not re.fullmatch(r"[\w./+-]+", value):
        return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
    return str(value)


def _space(file: Mapping[str, Any], given: set[str], where: str) -> tuple[dict[str, Range | Choices], list[Point]]:
    """Returns the space and the first points, without the keys that the command line gives."""
    if wrong := next((part for part in file if part not in PARTS), None):
        raise TrainError(f"there is no part {wrong!r} of a search{where}: it has {', '.join(PARTS)}")
    declared, first = file.get("space") or {}, file.get("first") or []
    if not isinstance(declared, dict) or not isinstance(file.get("search", {}), dict) or not isinstance(first, list):
        raise TrainError(f"`search` and `space` take keys, and `first` a list of points{where}")
    space = {str(key): _parameter(str(key), value, where) for key, value in declared.items() if str(key) not in given}
    if declared and not space:
        raise TrainError(
            f"every key of the space has one value by hand{where}: leave out {' or '.join(map(str, declared))}"
        )
    if not space:
        raise TrainError(
            f"the space is empty{where}: write `space: {{optimizer.lr: {{low: 1e-5, high: 1e-3, log: true}}}}`"
        )
    points: list[Point] = []
    for listed in first:
        point = {str(key): value for key, value in listed.items() if str(key) not in given} if listed else {}
        if point.keys() != space.keys():
            raise TrainError(f"a point of `first` has to give each key of the space once{where}: {', '.join(space)}")
        if wrong := next((key for key in space if not space[key].holds(point[key])), None):
            raise TrainError(f"{wrong}={written(point[wrong])} of `first` is not in the space{where}")
        if point not in points:
            points.append({key: point[key] for key in space})
    return space, points


def _parameter(key: str, value: Any, where: str) -> Range | Choices:
    if f"{key}.".startswith("launch."):
        raise TrainError(f"{key} cannot be searched{where}: launch keys say how runs are started")
    if key in NOT_SEARCHED:
        raise TrainError(f"{key} cannot be searched{where}: {NOT_SEARCHED[key]}")
    if isinstance(value, list):
        if not value or any(isinstance(choice, list | dict) for choice in value):
            raise TrainError(f"{key} takes a list of numbers, texts, true, false or null{where}")
        return Choices(tuple(dict.fromkeys(value)))
    if not isinstance(value, dict) or not {"low", "high"} <= value.keys():
        raise TrainError(f"{key} takes a list of choices, or {{low: A, high: B}}{where}")
    if wrong := next((str(field) for field in value if field not in RANGE_FIELDS), None):
        raise TrainError(f"{key} has no {wrong!r}{where}: a range has low, high, log and step")
    numbers = [value[field] for field in ("low", "high", "step") if value.get(field) is not None]
    if any(isinstance(number, bool) or not isinstance(number, int | float) for number in numbers):
        raise TrainError(f"low, high and step of {key} have to be numbers{where}")
    parameter = Range(value["low"], value["high"], bool(value.get("log", False)), value.get("step"))
    if not parameter.low < parameter.high:
        raise TrainError(f"low of {key} has to be below its high{where}")
    if parameter.log and (parameter.low <= 0 or parameter.step is not None):
        raise TrainError(f"{key} with log: true needs a low above 0, and takes no step{where}")
    if parameter.step is not None and (
        parameter.step <= 0 or (parameter.is_whole and isinstance(parameter.step, float))
    ):
        raise TrainError(f"step of {key} has to be above 0, and whole if low and high are{where}")
    return parameter


def _check(search: Search) -> None:
    """Raises TrainError for what no trial's own config shows."""
    config, settings = search.config, search.config.launch.search
    validation = config.data.validation
    if not config.evaluation.enabled:
        raise TrainError("a search compares eval/loss, and evaluation.enabled is false: leave that out")
    if not (validation.share or validation.sources or validation.file_list):
        raise TrainError(
            "a search compares eval/loss, and the data has no validation rows: set data.validation.share=0.002, or "
            "another place of data.validation"
        )
    launch = config.launch
    if launch.way in (LaunchWay.slurm, LaunchWay.kubernetes) or (launch.way is LaunchWay.nodes and not launch.hostfile):
        raise TrainError(
            f"a search waits for its runs, which launch={launch.way.value} cannot: use launch=local, or launch=nodes "
            "with launch.hostfile; several launchers, each in a job of its own, may share a search"
        )
    if config.stop_step is not None:
        raise TrainError(f"stop_step cannot be given to a search: {NOT_SEARCHED['stop_step']}")
    if settings.rungs and settings.rungs[-1] >= config.max_steps:
        raise TrainError(
            f"launch.search.rungs={settings.rungs} has to end before the last step, max_steps={config.max_steps}"
        )
    if search.size is not None and settings.trials > search.size:
        raise TrainError(
            f"launch.search.trials={settings.trials} is more than the {search.size} points of the space: "
            f"set launch.search.trials={search.size}"
        )
