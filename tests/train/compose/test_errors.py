"""A mistake in a YAML file is one sentence with the file, the key and the reason."""

import shutil
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException

from train.compose.errors import explain
from train.compose.groups import CONFIG_FOLDER, register_dataclasses

register_dataclasses()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("num_streams: many", "data.num_streams takes a whole number, and 'many' is none"),
        ("num_stream: 1", "there is no config key 'data.num_stream'; did you mean 'data.num_streams'?"),
        ("kind: txt", "data.kind: Invalid value 'txt', expected one of [text, tokens]"),
        ("sources: {web: {weight: abc}}", "data.sources.web.weight takes a number, and 'abc' is none"),
        ("sources: {web: a/*.zst}", "a/*.zst is given where keys belong: data.sources.NAME.files, data.sources."),
        ("sources: {web: {files: a/*.zst}}", "data.sources.web.files takes a list, as in 'data.sources.web.files=["),
    ],
)
def test_a_mistake_in_a_file_names_the_file_the_key_and_the_reason(tmp_path: Path, line: str, message: str) -> None:
    folder = tmp_path / "configs"
    shutil.copytree(CONFIG_FOLDER, folder, ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    (folder / "data/sample.yaml").write_text(f"{line}\n")
    with initialize_config_dir(str(folder), version_base="1.3"), pytest.raises(HydraException) as error:
        compose("config", ["experiment=demo"])
    assert explain(error.value).startswith(f"configs/data/sample.yaml: {message}")
