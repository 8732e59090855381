"""Configs composed many at a time are those that each has alone, and those that share their groups cost little."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from train.compose import many
from train.compose.app import to_run_config
from train.compose.exchange import without_hydra
from train.compose.groups import outside_files
from train.compose.many import Composer
from train.compose.outside import with_registered_files
from train.compose.sweep import compose_members
from train.config import RunConfig
from train.errors import TrainError

DEMO = "experiment=demo"
TIED = "schedule.decay_steps=${max_steps}"


@pytest.fixture
def composed(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The overrides of each config that Hydra composes."""
    seen: list[list[str]] = []
    hydra = many.compose

    def noted(name: str, overrides: list[str], *, return_hydra_config: bool) -> object:
        seen.append(overrides)
        return hydra(name, overrides, return_hydra_config=return_hydra_config)

    monkeypatch.setattr(many, "compose", noted)
    return seen


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder for config files, whose options are forgotten after the test."""
    outside_files().clear()
    yield tmp_path
    outside_files().clear()


def alone(lines: Sequence[str]) -> RunConfig:
    """Returns what Hydra composes of these arguments."""
    return to_run_config(without_hydra(Composer([])._compose(lines)))


def test_the_options_of_a_sweep_are_exchanged_and_its_values_set_in_one_config(composed: list[list[str]]) -> None:
    assert len(compose_members(["sweep=paper", DEMO])) == 15
    assert len(composed) == 1


@pytest.mark.parametrize(
    ("given", "num_composed"),
    [
        (["sweep=schemes", "experiment=repo-1b-50b"], 1),
        (["sweep=schemes", "experiment=demo-backbone", "model.num_layers=7"], 1),
        (["-m", DEMO, "seed=1,2", "positions=n2r1,repo", "guard=default,spikes", "guard.loss=${max_steps}"], 1),
        (["-m", DEMO, "data=sample,olmo2-stage2", "seed=1,2"], 2),
        (["-m", "experiment=demo,demo-backbone", "seed=1"], 2),
    ],
)
def test_each_member_is_what_hydra_composes(given: list[str], num_composed: int, composed: list[list[str]]) -> None:
    members = compose_members(given)
    assert len(composed) <= num_composed + 1  # another one, where an exchange was tried
    for member in members[:: max(1, len(members) // 3)]:
        hydra = alone(member.arguments)
        assert member.config == hydra and type(member.config) is type(hydra)


@pytest.mark.parametrize(
    "text",
    [
        "# @package _global_\nguard: {window: 9}\nseed: 5\n",
        "defaults: [spikes, _self_]\nwindow: 9\n",
        "defaults: [_self_, spikes]\nloss: 9.5\n",
        "defaults: [/positions@_global_.positions: rope, _self_]\nwindow: 9\n",
        "window: ???\nloss: 7\n",
    ],
)
def test_an_option_that_may_change_other_keys_is_not_exchanged(text: str, folder: Path) -> None:
    (folder / "guard").mkdir()
    (folder / "guard" / "mine.yaml").write_text(text)
    with_registered_files([f"--config-dir={folder}", "guard=mine"])
    composer = Composer([DEMO])
    try:
        expected = alone([DEMO, "guard=mine"])
    except Exception:
        with pytest.raises(TrainError):
            composer.config(["guard=mine"], "")
    else:
        assert composer.config(["guard=mine"], "") == expected


def test_a_password_that_a_member_takes_from_another_place_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OURS", "https://me:secret@127.0.0.1/a")
    members = compose_members(["-m", DEMO, "data.root=${oc.env:OURS}", "seed=1,2"])
    assert {member.config.data.root for member in members} == {"https://127.0.0.1/a"}


@pytest.mark.parametrize(
    ("lines", "point"),
    [
        ([DEMO], ["positions=nope", "seed=7", "optimizer.betas=[0.8,0.9]", "engine.precision=fp32", "init_from=null"]),
        ([DEMO, TIED], ["max_steps=60"]),
        ([DEMO], ["max_steps=60", TIED]),
        ([DEMO, "++data.sources={mine: {files: [a], weight: 1}}"], ["data.sources.mine.weight=2"]),
        ([DEMO], ["++data.sources={mine: {files: [a], weight: 1}}", "seed=7"]),
        ([DEMO], ["+positions/yarn=default", "positions.yarn.factor=4"]),
        ([DEMO, "name=???"], ["name=mine"]),
        ([DEMO, "engine.zero_stage=9"], ["engine.zero_stage=1"]),
        (["positions.start_layer=1"], [DEMO, "positions.start_layer=2"]),
    ],
)
def test_a_config_is_what_hydra_composes(lines: list[str], point: list[str]) -> None:
    composer = Composer(lines)
    composer.config([*point, "wandb.tags=[first]"], "")  # a copy that is changed is not the next one's
    assert composer.config(point, "") == alone([*lines, *point])


@pytest.mark.parametrize(
    ("point", "problem"),
    [
        (["optimizer.lrr=1"], "there is no config key 'optimizer.lrr'; did you mean 'optimizer.lr'?"),
        (["seed=x"], "seed takes a whole number, and 'x' is none"),
        (["positions=no"], "there is no positions=no; choose one of "),
        (["engine.zero_stage=4"], "engine.zero_stage=4 does not exist"),
        (["positions.yarn.factor=4"], "the overrides set a key below one that is null"),
    ],
)
def test_a_mistake_has_the_message_that_it_has_alone(point: list[str], problem: str) -> None:
    with pytest.raises(TrainError) as raised:
        Composer([DEMO]).config(point, " (there)")
    assert str(raised.value).startswith(problem) and str(raised.value).endswith(" (there)")


def test_a_password_in_a_file_of_a_sweep_is_not_kept(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("data.root: [https://me:secret@127.0.0.1/a, https://me:secret@127.0.0.1/b]\n")
    members = compose_members([f"sweep={tmp_path / 'mine.yaml'}", DEMO])
    assert [member.config.data.root for member in members] == ["https://127.0.0.1/a", "https://127.0.0.1/b"]
    assert "secret" not in str(members)


def test_a_list_of_a_file_may_hold_null(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("model.activation_checkpointing: [true]\nstop_step: [null, 5]\n")
    members = compose_members([f"sweep={tmp_path / 'mine.yaml'}", DEMO])
    assert [member.config.stop_step for member in members] == [None, 5]
    assert all(member.config.model.activation_checkpointing for member in members)
