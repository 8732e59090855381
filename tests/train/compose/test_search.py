"""A search as a file declares it: all that its space can give is composed first, and a mistake is one sentence."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from common.errors import UserError
from tests.composing import compose
from train.compose.search import Choices, Point, Range, compose_search

DEMO = "experiment=demo"
RATE = {"low": 1e-4, "high": 1e-2, "log": True}


def own(folder: Path, **parts: Any) -> str:
    """Returns the argument that names a file with these parts."""
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump(parts))
    return f"sweep={path}"


def test_the_search_that_comes_along_is_declared_in_its_file() -> None:
    given = ["sweep=optuna", "experiment=repo-1b-50b", "data.validation.file_list=rows.txt", "launch.search.trials=9"]
    search = compose_search([*given, "optimizer.repo_warmup_steps=7", "name=mine"])
    assert search.study == "mine-optuna" and search.size is None
    assert search.space == {
        "optimizer.lr": Range(1e-5, 5e-4, log=True),
        "optimizer.repo_lr_multiplier": Range(0.3, 10.0, log=True),
    }
    assert search.first == [{"optimizer.lr": 7.4487e-5, "optimizer.repo_lr_multiplier": 1.0}]
    trial = search.trial(3, search.first[0], stop_step=100)
    assert (trial.config.name, trial.config.wandb.group) == ("mine-optuna-trial-003", "mine-optuna")
    alone = compose(*trial.arguments)
    assert (alone.name, alone.wandb.group, alone.stop_step) == ("mine-optuna-trial-003", "mine-optuna", 100)
    assert (alone.optimizer.lr, alone.optimizer.repo_warmup_steps) == (7.4487e-5, 7)
    assert not any("search" in argument for argument in trial.arguments)


def test_every_kind_of_parameter_is_written_as_the_command_line_takes_it(tmp_path: Path) -> None:
    space = {
        "positions": ["rope", "repo"],
        "init_from": [None, "hf://a/b c's"],
        "mask_documents": [True, False],
        "optimizer.weight_decay": {"low": 0.0, "high": 0.2, "step": 0.1},
        "schedule.warmup_steps": {"low": 2, "high": 6, "step": 2},
    }
    search = compose_search([own(tmp_path, space=space), DEMO, "run_root=elsewhere"])
    assert isinstance(search.space["positions"], Choices) and search.size == 2 * 2 * 2 * 3 * 3
    point: Point = {"positions": "rope", "init_from": "hf://a/b c's", "mask_documents": True}
    trial = search.trial(0, {**point, "optimizer.weight_decay": 0.1, "schedule.warmup_steps": 4}, None)
    config = compose(*trial.arguments)
    assert (config.positions.scheme, config.init_from, config.mask_documents) == ("rope", "hf://a/b c's", True)
    assert (config.optimizer.weight_decay, config.schedule.warmup_steps, config.stop_step) == (0.1, 4, None)
    assert search.trial(1, {"init_from": None}, None).arguments[2] == "init_from=null"


@pytest.mark.parametrize(
    ("parts", "arguments", "problem"),
    [
        ({"space": {}}, [], "the space is empty (in sweep="),
        ({"space": {"optimizer.lr": RATE}}, ["optimizer.lr=1e-3"], "every key of the space has one value by hand"),
        ({"space": {"optimiser.lr": RATE}}, [], "there is no config key 'optimiser'; did you mean 'optimizer'?"),
        ({"space": {"optimizer.lr": RATE}, "trials": 3}, [], "there is no part 'trials' of a search"),
        ({"space": {"optimizer.lr": {"low": 1}}}, [], "optimizer.lr takes a list of choices, or {low: A, high: B}"),
        ({"space": {"optimizer.lr": {**RATE, "size": 1}}}, [], "optimizer.lr has no 'size'"),
        ({"space": {"optimizer.lr": {**RATE, "low": 0}}}, [], "optimizer.lr with log: true needs a low above 0"),
        ({"space": {"optimizer.lr": {"low": 2, "high": 1}}}, [], "low of optimizer.lr has to be below its high"),
        ({"space": {"optimizer.lr": {"low": "a", "high": 1}}}, [], "low, high and step of optimizer.lr have to be"),
        ({"space": {"optimizer.lr": [[1]]}}, [], "optimizer.lr takes a list of numbers, texts"),
        ({"space": {"max_steps": [1, 2]}}, [], "max_steps cannot be searched"),
        ({"space": {"launch.nodes": [1, 2]}}, [], "launch.nodes cannot be searched"),
        ({"space": {"optimizer.lr": [-1.0, 1.0]}}, [], "optimizer.lr=-1.0 is out of range"),
        ({"space": {"optimizer.lr": RATE}, "first": [{}]}, [], "a point of `first` has to give each key of the space"),
        ({"space": {"optimizer.lr": RATE}, "first": [{"optimizer.lr": 1}]}, [], "optimizer.lr=1 of `first` is not in"),
        (
            {"space": {"optimizer.lr": RATE}, "search": {"rungs": [5, 5]}},
            [],
            "launch.search.rungs=[5, 5] must be steps",
        ),
        (
            {"space": {"optimizer.lr": RATE}, "search": {"trails": 5}},
            [],
            "there is no config key 'launch.search.trails'",
        ),
        (
            {"space": {"optimizer.lr": RATE}},
            ["launch.search.rungs=[500]"],
            "launch.search.rungs=[500] has to end before",
        ),
        ({"space": {"optimizer.lr": RATE}}, ["launch.search.trials=0"], "launch.search.trials=0 is out of range"),
        (
            {"space": {"optimizer.lr": RATE}},
            ["evaluation.enabled=false"],
            "a search compares eval/loss, and evaluation",
        ),
        (
            {"space": {"optimizer.lr": RATE}},
            ["data.validation.share=0"],
            "a search compares eval/loss, and the data has",
        ),
        ({"space": {"optimizer.lr": RATE}}, ["stop_step=3"], "stop_step cannot be given to a search"),
        (
            {"space": {"optimizer.lr": RATE}},
            ["seed=1,2"],
            "seed=1,2 gives several values: in a search they are choices",
        ),
        ({"space": {"optimizer.lr": RATE}}, ["sweep=paper"], "a search is a sweep of its own"),
        ({"space": {"optimizer.lr": RATE}}, ["--resolve"], "a search takes no option --resolve"),
        ({"space": {"optimizer.lr": RATE}}, ["launch=slurm"], "a search waits for its runs, which launch=slurm cannot"),
        ({"space": {"seed": [1, 2]}}, [], "launch.search.trials=20 is more than the 2 points of the space"),
    ],
)
def test_a_mistake_is_one_sentence(tmp_path: Path, parts: Any, arguments: list[str], problem: str) -> None:
    with pytest.raises(UserError) as raised:
        compose_search([own(tmp_path, **parts), DEMO, *arguments])
    assert str(raised.value).startswith(problem) and "\n" not in str(raised.value)
