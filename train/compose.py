"""From the command line to a checked `RunConfig`: Hydra composes the YAML, the dataclasses check it, errors are a line.

Hydra reports a mistake over several lines and without a suggestion; `hydra_app` runs the same application and turns
what it raises into one sentence that names the key and the closest one that exists.
"""

import difflib
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from data.errors import DataError
from model.errors import ModelError
from train.config import RunConfig
from train.config_groups import CONFIG_FOLDER, register_dataclasses
from train.errors import EXIT_CRASHED, EXIT_OK, EXIT_STOPPED, EXIT_USER_ERROR, TrainError

USER_ERRORS = (TrainError, ModelError, DataError)

HYDRA_OPTIONS = {"--cfg", "--info", "--multirun", "--run", "--resolve", "--package", "--hydra-help", "--version"}

register_dataclasses()


def to_run_config(composed: DictConfig) -> RunConfig:
    """The dataclass instance of a composed config, validated. Raises the rooms' own errors."""
    schema = OmegaConf.structured(RunConfig)
    config = OmegaConf.to_object(OmegaConf.merge(schema, OmegaConf.to_container(composed)))  # `+key` is checked too
    assert isinstance(config, RunConfig)
    config.validate()
    return config


def load_run_config(path: Path) -> RunConfig:
    """The config that a run folder holds; unknown keys and wrong types raise TrainError."""
    if not path.is_file():
        raise TrainError(f"there is no config file {path}: start the run with `python -m launch experiment=NAME`")
    try:
        return to_run_config(OmegaConf.merge(OmegaConf.structured(RunConfig), OmegaConf.load(path)))  # type: ignore[arg-type]
    except OmegaConfBaseException as error:
        raise TrainError(f"{path}: {explain(error)}") from error


def save_run_config(config: RunConfig, path: Path) -> None:
    """Write the whole config as YAML, in place of what was there, in one rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(OmegaConf.to_yaml(OmegaConf.structured(config)))
    part.replace(path)


def swept_overrides() -> list[str]:
    """In a sweep, this job's `key=value` for each key that the command line sweeps over; else empty."""
    if HydraConfig.get().mode != hydra.types.RunMode.MULTIRUN:
        return []
    given = OverridesParser.create().parse_overrides(command_line_overrides(sys.argv[1:]))
    swept = {override.key_or_group for override in given if override.is_sweep_override()}
    return [text for text in HydraConfig.get().overrides.task if text.split("=", 1)[0].lstrip("+~") in swept]


def command_line_overrides(argv: Sequence[str]) -> list[str]:
    """The Hydra overrides among command line arguments."""
    return [argument for argument in argv if not argument.startswith("-") and "=" in argument]


def hydra_app(task: Callable[[RunConfig], int], usage: str) -> int:
    """Compose a config from sys.argv and call `task` with it (once per combination under `-m`).

    Returns the exit code: the task's own, or the worst of a sweep; EXIT_USER_ERROR after one line on standard error
    when the command line or the config is wrong.
    """
    if not sys.argv[1:] or set(sys.argv[1:]) & {"-h", "--help"}:
        print(usage.strip())
        return EXIT_OK if sys.argv[1:] else EXIT_USER_ERROR
    for argument in sys.argv[1:]:
        if argument.startswith("--") and argument.split("=")[0] not in HYDRA_OPTIONS:
            print(f"error: {argument} is no option; keys are set as key=value: experiment=demo", file=sys.stderr)
            return EXIT_USER_ERROR
    # Hydra's parser wants options first: allow `experiment=demo -m optimizer.lr=1e-3,2e-3` too.
    overrides = command_line_overrides(sys.argv[1:])
    sys.argv[1:] = [*(argument for argument in sys.argv[1:] if argument not in overrides), *overrides]
    codes = [EXIT_OK]

    def run(composed: DictConfig) -> None:
        try:
            code = _reported(lambda: task(to_run_config(composed)))
        except Exception:
            traceback.print_exc()
            code = EXIT_CRASHED
        if code == EXIT_STOPPED:
            raise SystemExit(code)  # a person or a scheduler asked to stop: the rest of a sweep has to wait as well
        codes.append(code)

    os.environ["HYDRA_FULL_ERROR"] = "1"  # hand errors to us instead of printing them
    app = hydra.main(config_path=str(CONFIG_FOLDER), config_name="config", version_base="1.3")(run)
    try:
        codes.append(_reported(app))
    except SystemExit as stopped:
        return int(stopped.code or EXIT_OK)
    except KeyboardInterrupt:
        return EXIT_STOPPED
    except Exception as error:  # Hydra's own: `run` lets none through
        print(f"error: {explain(error)}", file=sys.stderr)
        return EXIT_USER_ERROR
    return max(codes)


def _reported(job: Callable[[], int | None]) -> int:
    """The exit code of `job`; a user's mistake becomes one line on standard error."""
    try:
        return job() or EXIT_OK
    except USER_ERRORS as error:
        print(f"error: {error}", file=sys.stderr)
    except (HydraException, OmegaConfBaseException) as error:
        print(f"error: {explain(error)}", file=sys.stderr)
    except OSError as error:  # a folder that cannot be written, say
        print(f"error: {error}", file=sys.stderr)
    return EXIT_USER_ERROR


def explain(error: Exception) -> str:
    """One sentence for what Hydra or OmegaConf found wrong."""
    text = f"{error}\n{error.__cause__ or ''}"
    if missing := re.search(r"Could not find '([^']+)/([^'/]+)'", text):
        group, option = missing.groups()
        options = sorted(path.stem for path in (CONFIG_FOLDER / group).glob("*.yaml"))
        if not options:
            return f"there is no config group {group!r}{_did_you_mean(group, _groups())}"
        return f"there is no {group}={option}; choose one of {', '.join(options)}"
    if missing := re.search(r"You must specify '([^']+)'", text):
        options = sorted(path.stem for path in (CONFIG_FOLDER / missing[1]).glob("*.yaml"))
        return f"{missing[1]} is not given; choose one of {', '.join(options)}, for example {missing[1]}={options[0]}"
    unknown = re.search(r"Key '([^']+)' (?:is )?not in", text) or re.search(r"Could not override '([^']+)'", text)
    full_key = re.search(r"full_key: (\S+)", text)
    if unknown:
        key = full_key[1] if full_key else unknown[1]
        return f"there is no config key {key!r}{_did_you_mean(key, [*_keys(), *_groups()])}"
    if isinstance(error, OverrideParseException):
        return f"{error.override!r} is not of the form key=value: {error.__cause__ or error}".splitlines()[0]
    if isinstance(error, AssertionError | AttributeError):  # OmegaConf's, for a key below one that is null
        return "the overrides set a key below one that is null: add the group first, as in +positions/yarn=default"
    lines = [line.strip() for line in f"{error.__cause__ or error}".splitlines() if line.strip()] or [repr(error)]
    return f"{full_key[1]}: {lines[0]}" if full_key else lines[0].rstrip(".")


def _did_you_mean(key: str, valid: list[str]) -> str:
    close = difflib.get_close_matches(key, valid, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ": `--cfg job` prints all that there are"


def _groups() -> list[str]:
    return sorted(path.name for path in CONFIG_FOLDER.iterdir() if path.is_dir() and any(path.glob("*.yaml")))


def _keys() -> list[str]:
    def walk(node: DictConfig, prefix: str) -> Iterator[str]:
        for key in node:
            yield f"{prefix}{key!s}"
            child = node._get_node(key)
            if isinstance(child, DictConfig) and not child._is_none() and not child._is_missing():
                yield from walk(child, f"{prefix}{key!s}.")

    return list(walk(OmegaConf.structured(RunConfig), ""))
