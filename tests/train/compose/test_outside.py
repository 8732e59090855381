"""Config files outside the checkout compose like those in it, in a sweep too, and mistakes about them are one line."""

import shlex
from pathlib import Path

import pytest

from tests.composing import compose, run_app
from train.compose.groups import outside_files
from train.compose.outside import as_given, with_registered_files
from train.compose.sweep import compose_members
from train.errors import EXIT_OK, EXIT_USER_ERROR

DEMO = "experiment=demo"
MINE = "root: here\ntokenizer: t.json\nsources:\n  mine: {files: [x/*], weight: 1}\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/mine.yaml").write_text(MINE)
    (tmp_path / "sample.yaml").write_text(MINE.replace("here", "there"))
    (tmp_path / "recipe.yaml").write_text(
        "# @package _global_\ndefaults:\n  - demo-backbone\nname: outside\noptimizer: {lr: 0.5}\n"
    )
    outside_files().clear()
    return tmp_path


def test_a_file_and_a_folder_are_options_of_their_group(folder: Path) -> None:
    by_path = compose(DEMO, f"data={folder}/data/mine.yaml")
    by_name = compose(DEMO, "--config-dir", str(folder), "data=mine")
    assert by_path.data == by_name.data and list(by_path.data.sources) == ["mine"]
    assert compose(f"data={folder}/sample.yaml", DEMO).data.root == "there", "the name of one in configs/ is free"
    recipe = compose(f"experiment={folder}/recipe.yaml", "max_steps=3")
    assert (recipe.name, recipe.optimizer.lr, recipe.max_steps) == ("outside", 0.5, 3)


def test_a_member_of_a_sweep_is_started_with_the_path(folder: Path) -> None:
    given = ["-m", f"--config-dir={folder}", DEMO, f"data={folder}/sample.yaml,mine"]
    members = compose_members(given)
    assert [member.config.data.root for member in members] == ["there", "here"]
    for member in members:
        outside_files().clear()
        code, [alone] = run_app(*shlex.split(shlex.join(member.arguments)))
        assert (code, alone) == (EXIT_OK, member.config)


def test_printed_commands_have_what_was_typed(folder: Path) -> None:
    given = [f"--config-dir={folder}", DEMO, f"data={folder}/sample.yaml"]
    changed = with_registered_files(given)
    assert changed[-1].startswith("data=sample-") and as_given(changed) == given


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (
            ["data={folder}/none.yaml"],
            "data: there is no file {folder}/none.yaml; give the path of a YAML file",
        ),
        (
            ["data={folder}"],
            "data: {folder} is a folder; give the path of a YAML file, as in data={folder}/mine.yaml, or one of ",
        ),
        (
            ["data={folder}/"],
            "data: {folder}/ is a folder; give the path of a YAML file, as in data={folder}/mine.yaml, or one of ",
        ),
        (
            ["model={folder}/data/mine"],
            "model: {folder}/data/mine is no YAML file; give the path of a YAML file, as in model={folder}/data/",
        ),
        (
            ["+positions/yarn=../x"],
            "positions/yarn: ../x is no YAML file; give the path of a YAML file, as in positions/yarn=../mine",
        ),
        (
            ["--config-dir", "{folder}/data", "data=mine"],
            "--config-dir {folder}/data: there is no GROUP/NAME.yaml",
        ),
        (["--config-dir"], "option --config-dir needs a folder of config files"),
        (["data={folder}/bad.yaml"], "{folder}/bad.yaml: "),
        (
            ["data={folder}/empty.yaml"],
            "{folder}/empty.yaml has no keys: write `key: value` lines",
        ),
        (
            ["data={folder}/typo.yaml"],
            "{folder}/typo.yaml: there is no config key 'data.rooot'; did you mean",
        ),
    ],
)
def test_a_mistake_is_one_line(
    arguments: list[str],
    line: str,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(folder)  # anything may lie beside the checkout
    for name, content in (("bad", "a: [1"), ("empty", "- a"), ("typo", "rooot: x")):
        (folder / f"{name}.yaml").write_text(content)
    assert run_app(DEMO, *(argument.format(folder=folder) for argument in arguments)) == (EXIT_USER_ERROR, [])
    error = capsys.readouterr().err
    assert error.startswith(f"error: {line.format(folder=folder)}") and error.count("\n") == 1
