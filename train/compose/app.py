"""From the command line to a checked `RunConfig`: Hydra composes the YAML, the dataclasses check it, errors are a line.

command_line.py checks the arguments before Hydra sees them; errors.py turns what Hydra raises into a sentence.
"""

import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hydra
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from common.errors import UserError
from common.files import write_text_whole
from data.fetch.credentials import take_credentials
from train.compose.command_line import for_hydra
from train.compose.errors import explain, no_option
from train.compose.groups import CONFIG_FOLDER, register_dataclasses, schema
from train.compose.outside import with_registered_files
from train.compose.renamed import with_new_keys, with_new_names
from train.config import RunConfig
from train.errors import EXIT_CRASHED, EXIT_OK, EXIT_STOPPED, EXIT_USER_ERROR, TrainError

register_dataclasses()


def to_run_config(composed: DictConfig) -> RunConfig:
    """Returns the dataclass instance of a composed config, validated. Raises TrainError, ModelError or DataError."""
    return run_config_from(typed(composed))


def typed(composed: DictConfig) -> DictConfig:
    """Returns a composed config, without interpolations and passwords, in which each key has the type of RunConfig."""
    values = _without_secrets(OmegaConf.to_container(composed, resolve=True))
    config = OmegaConf.merge(schema(), values)  # `+key` is checked too
    assert isinstance(config, DictConfig)
    return config


def run_config_from(config: DictConfig) -> RunConfig:
    """Returns the dataclass instance of what `typed` returns, validated. Raises as `to_run_config` does."""
    instance = OmegaConf.to_object(config)
    assert isinstance(instance, RunConfig)
    instance.validate()
    return instance


def load_run_config(path: Path) -> RunConfig:
    """Returns the config that a run folder holds; unknown keys and wrong types raise TrainError."""
    if not path.is_file():
        raise TrainError(f"there is no config file {path}: start the run with `python -m launch experiment=NAME`")
    try:
        saved = OmegaConf.to_container(OmegaConf.load(path))
    except OmegaConfBaseException as error:
        raise TrainError(f"{path}: {explain(error)}") from error
    return run_config_of(saved, str(path))


def run_config_of(saved: Any, place: str) -> RunConfig:
    """Returns the config that was saved as plain data in `place`; unknown keys and wrong types raise TrainError."""
    try:
        composed = OmegaConf.merge(schema(), with_new_keys(saved))
        return to_run_config(composed)  # type: ignore[arg-type]
    except OmegaConfBaseException as error:
        raise TrainError(f"{place}: {explain(error)}") from error


def save_run_config(config: RunConfig, path: Path) -> None:
    """Writes the whole config as YAML, replacing what was there. Not durable: every start writes it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text_whole(path, OmegaConf.to_yaml(OmegaConf.create(config.as_plain())), durable=False)


def hydra_app(task: Callable[[RunConfig], int], usage: str, *, had_options: bool = False) -> int:
    """Composes a config from sys.argv and calls `task` with it.

    Returns the exit code: the task's own; EXIT_USER_ERROR after one line on standard error when the command line or
    the config is wrong. A sweep is train/compose/sweep.py's. Without any argument the usage is printed, unless
    `had_options` says that the caller has taken options out of sys.argv.
    """
    if had_options and not sys.argv[1:]:
        print(f"error: {no_option('experiment', '')}", file=sys.stderr)
        return EXIT_USER_ERROR
    if not sys.argv[1:] or set(sys.argv[1:]) & {"-h", "--help"}:
        print(usage.strip())
        return EXIT_OK if sys.argv[1:] else EXIT_USER_ERROR
    try:
        given = with_registered_files([take_credentials(argument) for argument in sys.argv[1:]])
        sys.argv[1:] = for_hydra(with_new_names(given))
    except TrainError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USER_ERROR
    codes = [EXIT_OK]

    def run(composed: DictConfig) -> None:
        try:
            codes.append(reported(lambda: task(to_run_config(composed))))
        except Exception:
            traceback.print_exc()
            codes.append(EXIT_CRASHED)

    has_options = any(argument.startswith("-") for argument in sys.argv[1:])
    try:
        codes.append(reported(lambda: _with_options(run) if has_options else run(_composed(sys.argv[1:]))))
    except SystemExit as stopped:
        return int(stopped.code or EXIT_OK)
    except KeyboardInterrupt:
        return EXIT_STOPPED
    except Exception as error:  # Hydra's own: `run` lets none through
        print(f"error: {explain(error)}", file=sys.stderr)
        return EXIT_USER_ERROR
    return max(codes)


def _composed(overrides: list[str]) -> DictConfig:
    """Returns the config of a command line without options. Hydra's own main composes it twice."""
    with initialize_config_dir(str(CONFIG_FOLDER), version_base="1.3"):
        return compose("config", overrides)


def _with_options(run: Callable[[DictConfig], None]) -> None:
    """Does what the options of sys.argv ask of Hydra, such as to print the config."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises errors instead of printing them
    hydra.main(config_path=str(CONFIG_FOLDER), config_name="config", version_base="1.3")(run)()


def _without_secrets(value: Any) -> Any:
    """Returns composed values without passwords in addresses: what runs, and what is kept of it, has none."""
    if isinstance(value, dict):
        return {key: _without_secrets(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_without_secrets(part) for part in value]
    return take_credentials(value) if isinstance(value, str) else value


def reported(job: Callable[[], int | None]) -> int:
    """Returns the exit code of `job`; a user's mistake becomes one line on standard error."""
    try:
        return job() or EXIT_OK
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
    except (HydraException, OmegaConfBaseException) as error:
        print(f"error: {explain(error)}", file=sys.stderr)
    except OSError as error:  # for example a folder that cannot be written
        print(f"error: {error}", file=sys.stderr)
    return EXIT_USER_ERROR
