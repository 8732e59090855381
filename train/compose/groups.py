"""The groups of `RunConfig` and their options, as Hydra knows them.

A group is a component of the config, `guard` for example. An option is a set of values for it: `guard=spikes`. The
dataclass of a component is registered as an option, by default the one that a run has; files in `configs/GROUP/` are
the others, and state what differs from the dataclass. Only this module registers: components do not depend on Hydra.
"""

import dataclasses
import functools
from pathlib import Path

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf

import configs
from model.config import ModelConfig, PositionsConfig, YarnConfig
from train.callbacks.config import EvaluationConfig, LoggingConfig, ProfileConfig, WandbConfig
from train.checkpoint.config import CheckpointConfig
from train.config import RunConfig
from train.engine.config import EngineConfig
from train.guard import GuardConfig
from train.launch_config import LaunchConfig
from train.loss_config import LossConfig
from train.optimizer_config import OptimizerConfig
from train.schedule import ScheduleConfig
from train.watch.config import PositionWatchConfig
from train.watchdog_config import WatchdogConfig

CONFIG_FOLDER = Path(configs.__file__).parent

DATACLASS_OPTIONS = {
    "model": ("olmo2-1b", ModelConfig),
    "positions": ("repo", PositionsConfig),
    "positions/yarn": ("default", YarnConfig),
    "loss": ("published", LossConfig),
    "optimizer": ("published", OptimizerConfig),
    "schedule": ("linear", ScheduleConfig),
    "engine": ("zero2", EngineConfig),
    "guard": ("default", GuardConfig),
    "watchdog": ("default", WatchdogConfig),
    "checkpoint": ("default", CheckpointConfig),
    "evaluation": ("default", EvaluationConfig),
    "position_watch": ("default", PositionWatchConfig),
    "wandb": ("default", WandbConfig),
    "logging": ("default", LoggingConfig),
    "profile": ("default", ProfileConfig),
    "launch": ("local", LaunchConfig),
}
"""Group -> the option that is its dataclass. `data` has none: there is no dataset that everyone has."""


def register_dataclasses() -> None:
    """Registers RunConfig as `schema`, and each dataclass as an option of its group.

    The schema has a dataclass of each group, with its values: such an option adds nothing. Merging them again would
    take a fifth of the time that Hydra needs.
    """
    store = ConfigStore.instance()
    store.store(name="schema", node=schema())
    in_schema = {field.name for field in dataclasses.fields(RunConfig)}
    for group, (option, dataclass) in DATACLASS_OPTIONS.items():
        store.store(group=group, name=option, node={} if group in in_schema else dataclass)


@functools.cache
def schema() -> DictConfig:
    """Returns RunConfig with its defaults; whoever changes it has to copy it, as `merge` does."""
    config = OmegaConf.structured(RunConfig)
    assert isinstance(config, DictConfig)
    return config


@functools.cache
def groups() -> tuple[str, ...]:
    """Returns the names of all groups, with `experiment`."""
    of_files = {path.parent.relative_to(CONFIG_FOLDER).as_posix() for path in CONFIG_FOLDER.glob("*/**/*.yaml")}
    return tuple(sorted(of_files | DATACLASS_OPTIONS.keys()))


def options(group: str) -> list[str]:
    """Returns the names of a group's options; none for an unknown group."""
    names = {path.stem for path in (CONFIG_FOLDER / group).glob("*.yaml")}
    if group in DATACLASS_OPTIONS:
        names.add(DATACLASS_OPTIONS[group][0])
    return sorted(names | {name for of, _, name in (key.rpartition("/") for key in outside_files()) if of == group})


@functools.cache
def outside_files() -> dict[str, Path]:
    """Returns the files outside configs/ that are registered as options, by `GROUP/NAME` (outside.py)."""
    return {}


@functools.cache
def default_options() -> dict[str, str]:
    """Returns the option of each group that a run has unless another is chosen; `???`: one has to be chosen."""
    root = OmegaConf.to_container(OmegaConf.load(CONFIG_FOLDER / "config.yaml"))
    assert isinstance(root, dict)
    entries = [entry for entry in root["defaults"] if isinstance(entry, dict)]
    chosen = {group: option for entry in entries for group, option in entry.items()}
    return {group: option for group, option in chosen.items() if not group.startswith("override ")}
