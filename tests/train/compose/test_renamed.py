"""train/compose/renamed.py: saved configs and command lines with old keys keep working."""

from pathlib import Path
from typing import Any

import pytest

from launch.keys import matching
from model.errors import ModelError
from tests.composing import compose, run_app
from tests.train.tiny import tiny
from train.changes import changed_keys, check_changes
from train.compose.app import load_run_config, save_run_config
from train.compose.renamed import RENAMED, with_new_keys, with_new_names
from train.config import RunConfig
from train.errors import EXIT_USER_ERROR, TrainError

CHECKPOINT = Path("runs/mine/checkpoints/step-0000007")
DEMO = "experiment=demo"


def of_an_older_version(config: RunConfig) -> dict[str, Any]:
    """The plain config that a checkpoint held before the key had its new name and RMSNorm its precision."""
    plain = config.as_plain()
    plain["positions"]["hidden_ratio"] = plain["positions"].pop("hidden_divisor")
    del plain["model"]["norm_precision"]
    return plain


def test_an_older_checkpoint_is_the_same_run() -> None:
    config = tiny(Path(), positions__hidden_divisor=4)
    saved = of_an_older_version(config)
    assert changed_keys(saved, config) == {}
    check_changes(CHECKPOINT, saved, config)
    assert "hidden_ratio" in saved["positions"]  # the caller's config is left alone


def test_another_width_than_in_an_older_checkpoint_is_another_model() -> None:
    config = tiny(Path(), positions__hidden_divisor=4)
    with pytest.raises(TrainError, match=r"has other parameters: positions\.hidden_divisor was 8 and is 4"):
        check_changes(CHECKPOINT, of_an_older_version(tiny(Path())), config)


def test_a_key_that_a_checkpoint_is_too_old_for_had_its_default() -> None:
    changed = changed_keys(of_an_older_version(tiny(Path())), tiny(Path(), optimizer__lr=0.5))
    assert changed == {"optimizer.lr": (3e-3, 0.5)}


def test_the_config_of_an_older_run_folder_is_read(tmp_path: Path) -> None:
    config = tiny(tmp_path, positions__hidden_divisor=4)
    save_run_config(config, tmp_path / "config.yaml")
    text = (tmp_path / "config.yaml").read_text()
    (tmp_path / "config.yaml").write_text(text.replace("hidden_divisor", "hidden_ratio"))
    assert "hidden_ratio: 4" in (tmp_path / "config.yaml").read_text()
    assert load_run_config(tmp_path / "config.yaml") == config


def test_the_command_line_takes_both_names(capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("hidden_ratio", "hidden_divisor"):
        assert compose(DEMO, f"positions.{name}=4").positions.hidden_divisor == 4
    assert compose(DEMO, "positions.hidden_ratio=4", "positions.hidden_divisor=4").positions.hidden_divisor == 4
    code, configs = run_app("-m", DEMO, "positions.hidden_ratio=4,16")
    assert (code, [config.positions.hidden_divisor for config in configs]) == (0, [4, 16])
    assert run_app(DEMO, "positions.hidden_ratio=4", "positions.hidden_divisor=8") == (EXIT_USER_ERROR, [])
    assert capsys.readouterr().err == (
        "error: positions.hidden_ratio=4 and positions.hidden_divisor=8 are two names of one key: give one of them\n"
    )


def test_launch_keys_finds_a_key_by_its_old_name() -> None:
    for pattern in ("hidden_ratio", "positions.hidden_ratio", "*ratio"):
        assert [row.key for row in matching(pattern)] == ["positions.hidden_divisor"]
    assert len({row.key for row in matching("hidden")}) == len(matching("hidden"))


def test_other_arguments_stay_as_they_are() -> None:
    arguments = [DEMO, "optimizer.lr=1", "optimizer.lr=2", "optimizer.lr=1", "+positions/yarn=default"]
    assert with_new_names(arguments) == arguments
    assert with_new_names(["++positions.hidden_ratio=4"]) == ["++positions.hidden_divisor=4"]


def test_both_names_in_one_file_must_agree() -> None:
    assert with_new_keys({"positions": {"hidden_ratio": 4, "hidden_divisor": 4}}) == {
        "positions": {"hidden_divisor": 4}
    }
    with pytest.raises(TrainError, match=r"hidden_ratio=4 and positions\.hidden_divisor=8 are two names of one key"):
        with_new_keys({"positions": {"hidden_ratio": 4, "hidden_divisor": 8}})
    with pytest.raises(TrainError, match=r"hidden_ratio=null and positions\.hidden_divisor=8 are two names"):
        with_new_keys({"positions": {"hidden_ratio": None, "hidden_divisor": 8}})
    assert with_new_keys({"positions": None}) == {"positions": None}


def test_every_new_name_is_a_key() -> None:
    plain: Any = tiny(Path()).as_plain()
    for old, new in RENAMED.items():
        group, leaf = new.split(".")
        assert old.split(".")[0] == group and leaf in plain[group]


def test_a_scheme_that_does_not_exist_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_app(DEMO, "positions.scheme=repoo") == (EXIT_USER_ERROR, [])
    assert capsys.readouterr().err == (
        "error: positions.scheme=repoo does not exist: choose one of list, n2r1, nope, r2n1, repo, residual, rope; "
        "did you mean 'repo'?\n"
    )
    with pytest.raises(ModelError, match=r"positions\.layers names ropee, which does not exist"):
        tiny(Path(), positions__scheme="list", positions__start_layer=None, positions__layers=["ropee"] * 3).validate()
