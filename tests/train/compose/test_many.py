"""Configs composed many at a time are those that each has alone, and those that share their groups cost little."""

from pathlib import Path

import pytest

from train.compose import many
from train.compose.app import to_run_config
from train.compose.many import Composer
from train.compose.sweep import compose_members
from train.errors import TrainError

DEMO = "experiment=demo"
TIED = "schedule.decay_steps=${max_steps}"


@pytest.fixture
def composed(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The overrides of each config that Hydra composes."""
    seen: list[list[str]] = []
    hydra = many.compose

    def noted(name: str, overrides: list[str]) -> object:
        seen.append(overrides)
        return hydra(name, overrides)

    monkeypatch.setattr(many, "compose", noted)
    return seen


def test_members_with_the_same_groups_are_composed_once(composed: list[list[str]]) -> None:
    assert len(compose_members(["sweep=paper", DEMO])) == 15
    assert len(composed) == 5


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
    alone = to_run_config(Composer([])._compose([*lines, *point]))
    assert composer.config(point, "") == alone


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
