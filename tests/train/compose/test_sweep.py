"""The members of a sweep: every combination, composed and checked before any starts, with names that last."""

import shlex

import pytest

from common.errors import UserError
from tests.composing import run_app
from train.compose.groups import options
from train.compose.sweep import MAX_NAME, compose_members
from train.errors import EXIT_OK, EXIT_USER_ERROR

DEMO = "experiment=demo"


def test_a_sweep_is_every_combination_wherever_the_flag_stands() -> None:
    lists = ["optimizer.lr=1e-3,2e-3", "seed=1,2"]
    for arguments in (["-m", DEMO, *lists], [DEMO, *lists, "--multirun"]):
        code, composed = run_app(*arguments)
        assert code == EXIT_OK
        assert [(config.optimizer.lr, config.seed) for config in composed] == [
            (lr, seed) for lr in (1e-3, 2e-3) for seed in (1, 2)
        ]


def test_one_wrong_member_keeps_all_from_starting_and_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_app("-m", DEMO, "engine.zero_stage=1,4") == (EXIT_USER_ERROR, [])
    line = "error: engine.zero_stage=4 does not exist: choose 0, 1, 2 or 3 (in the member engine.zero_stage=4)\n"
    assert capsys.readouterr().err == line


def test_a_member_alone_has_the_config_that_it_has_in_the_sweep() -> None:
    given = ["-m", DEMO, "data.sources={mine: {files: [x/*], weight: 2}}", "positions=rope,repo"]
    for member in compose_members(given):
        code, [alone] = run_app(*shlex.split(shlex.join(member.arguments)))
        assert (code, alone) == (EXIT_OK, member.config)


def test_names_say_what_varies_and_stay_when_a_sweep_is_extended() -> None:
    few = compose_members(["-m", DEMO, "positions=rope", "seed=1,2"])
    more = compose_members(["-m", DEMO, "seed=1,2,3", "positions=rope", "wandb.group=mine"])
    assert [member.config.name for member in few] == ["demo-seed_1", "demo-seed_2"]
    assert [member.config.name for member in more] == ["demo-seed_1", "demo-seed_2", "demo-seed_3"]
    assert {member.sweep for member in (*few, *more)} == {"demo-seed"}
    assert {member.config.wandb.group for member in few} == {"demo-seed"}
    assert {member.config.wandb.group for member in more} == {"mine"}


def test_long_names_end_in_a_hash_of_all_values() -> None:
    files = [f"position_watch.probe_files=[{'a' * 150}/{name}]" for name in ("x", "y")]
    keys = ",".join(line.partition("=")[2] for line in files)
    names = [member.config.name for member in compose_members(["-m", DEMO, f"wandb.tags={keys}"])]
    assert len(set(names)) == 2 and {len(name) for name in names} == {MAX_NAME}


@pytest.mark.parametrize(
    ("name", "given", "number"),
    [("paper", ["seed=7"], 5), ("schemes", ["positions=nope,repo"], 2), ("start-layers", [], 5), ("repo-lr", [], 4)],
)
def test_a_named_sweep_is_what_its_file_lists_and_given_values_replace_its_own(
    name: str, given: list[str], number: int
) -> None:
    members = compose_members([f"sweep={name}", "experiment=repo-1b-50b", *given])
    assert len({tuple(member.swept.items()) for member in members}) == len(members) == number
    assert {member.sweep for member in members} == {f"repo-1b-50b-{name}"}
    if name == "paper":
        assert [member.config.positions.scheme for member in members] == ["rope", "nope", "r2n1", "n2r1", "repo"]


def test_the_papers_sweep_changes_the_order_of_the_data_with_the_seed() -> None:
    members = compose_members(["sweep=paper", DEMO, "positions=rope,repo"])
    assert [(member.config.seed, member.config.data.seed) for member in members] == [(42, 42), (43, 43), (44, 44)] * 2
    code, [alone] = run_app(*members[1].arguments)
    assert (code, alone) == (EXIT_OK, members[1].config)
    assert members[1].config.name == "demo-positions_rope-seed_43"


def test_every_named_sweep_is_tried_above_and_multiplies_with_further_values() -> None:
    assert options("sweep") == ["optuna", "paper", "repo-lr", "schemes", "start-layers"]
    swept = compose_members(["sweep=repo-lr", DEMO, "optimizer.repo_lr_multiplier=1,2", "seed=1,2"])
    assert [tuple(member.swept.values()) for member in swept] == [("1", "1"), ("1", "2"), ("2", "1"), ("2", "2")]


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (
            ["sweep=absent", DEMO],
            "there is no sweep=absent; choose one of optuna, paper, repo-lr, schemes, start-layers",
        ),
        (["-m", DEMO, "seed=1,1"], "two members of this sweep would be called demo-seed_1"),
        (["-m", DEMO, "seed=interval(1,2)"], "seed=interval(1,2) has no end of values"),
        (["-m", DEMO, "optimiser.lr=1,2"], "there is no config key 'optimiser'"),
        (["-m", DEMO, "seed=1,2", "--resolve"], "a sweep takes no option --resolve"),
        (["-m", DEMO, "seed=1,2", "--cfg", "job"], "--cfg prints one config: leave out -m"),
    ],
)
def test_a_mistake_is_one_sentence(arguments: list[str], problem: str) -> None:
    with pytest.raises(UserError) as raised:
        compose_members(arguments)
    assert str(raised.value).startswith(problem) and "\n" not in str(raised.value)
