"""A config value is stated once: no file in `configs/` repeats what would hold without the line."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from train.compose.groups import CONFIG_FOLDER, DATACLASS_OPTIONS, default_options, options, register_dataclasses

FILES = sorted(
    path.relative_to(CONFIG_FOLDER).as_posix()
    for path in CONFIG_FOLDER.glob("**/*.yaml")
    # Not of a run: the values of a sweep, the published one among them, and `python -m evaluate replicate`.
    if path.parent.name not in ("sweep", "replicate")
)
ABSENT = object()

register_dataclasses()


def leaves(node: dict[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields (key, value) of everything that is no dict, or an empty one."""
    for key, value in node.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def composed(folder: Path, file: str, content: dict[Any, Any]) -> DictConfig:
    """Returns what a run has that chooses `file`, with `content` in place of what the file holds."""
    header = [line for line in (CONFIG_FOLDER / file).read_text().splitlines() if line.startswith("# @package")]
    (folder / file).write_text("\n".join([*header, OmegaConf.to_yaml(content)]))
    group, option = Path(file).parent.as_posix(), Path(file).stem
    chosen = {".": "experiment=blank", "experiment": f"experiment={option}"}.get(group, f"{group}={option}")
    chosen = f"+{chosen}" if "/" in group else chosen
    blank = [] if chosen.startswith("experiment=") else ["experiment=blank"]
    with initialize_config_dir(str(folder), version_base="1.3"):
        return compose("config", [chosen, *blank, "++name=x"], return_hydra_config=True)


def repeats(folder: Path, file: str) -> list[str]:
    """Returns the lines of `file` that change nothing."""
    shutil.copytree(CONFIG_FOLDER, folder, ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    (folder / "experiment/blank.yaml").write_text("# @package _global_\n")
    content = OmegaConf.to_container(OmegaConf.load(CONFIG_FOLDER / file))
    assert isinstance(content, dict)
    body = {key: value for key, value in content.items() if key != "defaults"}
    defaults = content.get("defaults", [])
    is_global = file == "config.yaml" or file.startswith("experiment/")
    prefix = "" if is_global else f"{Path(file).parent.as_posix().replace('/', '.')}."

    inherited = OmegaConf.to_container(composed(folder, file, {"defaults": defaults}), enum_to_str=True)
    assert isinstance(inherited, dict)
    before = dict(leaves(inherited))
    found = [f"{file}: {key}" for key, value in leaves(body) if before.get(f"{prefix}{key}", ABSENT) == value]
    for entry in defaults if file != "config.yaml" else []:
        for key in [key for key in entry if key.startswith("override /")] if isinstance(entry, dict) else []:
            without = {**body, "defaults": [other for other in defaults if other is not entry]}
            choices = composed(folder, file, without).hydra.runtime.choices
            if choices[key.removeprefix("override /")] == entry[key]:
                found.append(f"{file}: {key}")
    return found


@pytest.mark.parametrize("file", FILES)
def test_no_file_repeats_a_value_that_holds_without_it(file: str, tmp_path: Path) -> None:
    found = repeats(tmp_path / "configs", file)
    assert not found, f"delete what changes nothing: {', '.join(found)}"


def test_every_group_of_a_run_has_a_default_and_dataclasses_are_options_without_a_file() -> None:
    assert {group for group in DATACLASS_OPTIONS if "/" not in group} | {"data", "experiment"} == set(default_options())
    for group, (option, _) in DATACLASS_OPTIONS.items():
        assert option in options(group)
        assert not (CONFIG_FOLDER / group / f"{option}.yaml").exists()
