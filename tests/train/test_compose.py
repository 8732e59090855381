"""A mistake on the command line is one line on standard error and exit code 2; everything else composes."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.composing import compose, run_app
from tests.train.tiny import tiny
from train.compose import EXIT_OK, EXIT_USER_ERROR, hydra_app, load_run_config, save_run_config
from train.config import RunConfig, rows_per_rank
from train.engine_config import Precision
from train.errors import TrainError
from train.optimizer_config import OptimizerConfig

ROOT = Path(__file__).parents[2]
DEMO = "experiment=demo"


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ([DEMO, "optimizer.lrr=1"], "there is no config key 'optimizer.lrr'; did you mean 'optimizer.lr'?"),
        ([DEMO, "+optimizer.lrr=1"], "there is no config key 'optimizer.lrr'; did you mean 'optimizer.lr'?"),
        ([DEMO, "optimiser.lr=1"], "there is no config key 'optimiser'; did you mean 'optimizer'?"),
        ([DEMO, "modle=tiny"], "there is no config key 'modle'; did you mean 'model'?"),
        ([DEMO, "xyzzy=1"], "there is no config key 'xyzzy': `--cfg job` prints all that there are"),
        ([DEMO, "optimizer.lr=fast"], "optimizer.lr: Value 'fast' of type 'str' could not be converted to Float"),
        ([DEMO, "max_steps=1.5"], "max_steps: Value '1.5' of type 'float' could not be converted to Integer"),
        ([DEMO, "engine.precision=fp31"], "engine.precision: Invalid value 'fp31', expected one of [auto, bf16, fp32]"),
        ([DEMO, "model=tinny"], "there is no model=tinny; choose one of olmo2-1b, olmo2-7b, small, tiny"),
        ([DEMO, "max_steps"], "'max_steps' is not of the form key=value"),
        (["experiment=dmeo"], "there is no experiment=dmeo; choose one of demo, demo-backbone, "),
        (["name=x"], "experiment is not given; choose one of demo, demo-backbone, "),
        ([DEMO, "engine.zero_stage=4"], "engine.zero_stage=4 does not exist: choose 0, 1, 2 or 3"),
        ([DEMO, "optimizer.betas=[0.9]"], "optimizer.betas=[0.9] must be two numbers in [0, 1)"),
        ([DEMO, "optimizer.lr=nan"], "optimizer.lr=nan is out of range: it must be a number of at least 0"),
        ([DEMO, "logging.interval=3"], "position_watch.interval=10 must be a multiple of logging.interval=3"),
        ([DEMO, "schedule.warmup_steps=999"], "schedule.decay_steps="),
        ([DEMO, "model.hidden_size=130"], "model.num_heads is 4, which does not cut model.hidden_size 130"),
        ([DEMO, "positions.start_layer=6"], "positions.start_layer is 6 and model.num_layers is 6; choose 0 to 5"),
        ([DEMO, "data.root=''"], "data.root is not set"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_key(
    arguments: list[str], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_app(*arguments) == (EXIT_USER_ERROR, [])
    output = capsys.readouterr()
    assert output.err.startswith(f"error: {line}")
    assert output.err.count("\n") == 1 and output.out == ""


def test_any_key_can_be_set_and_the_rest_stays() -> None:
    plain, changed = compose(DEMO), compose(DEMO, "optimizer.lr=0.5", "model=small", "positions.start_layer=4")
    assert (changed.optimizer.lr, changed.model.hidden_size, changed.positions.start_layer) == (0.5, 768, 4)
    assert plain.optimizer.lr != 0.5 and plain.data == changed.data


def test_a_sweep_is_every_combination_wherever_the_flag_stands(tmp_path: Path) -> None:
    lists = ["optimizer.lr=1e-3,2e-3", "seed=1,2", f"run_root={tmp_path}"]
    for arguments in (["-m", DEMO, *lists], [DEMO, *lists, "-m"]):
        code, composed = run_app(*arguments)
        assert code == EXIT_OK
        assert [(config.optimizer.lr, config.seed) for config in composed] == [
            (lr, seed) for lr in (1e-3, 2e-3) for seed in (1, 2)
        ]


def test_a_wrong_combination_does_not_keep_a_sweep_from_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, composed = run_app("-m", DEMO, "engine.zero_stage=4,1", f"run_root={tmp_path}")
    assert code == EXIT_USER_ERROR
    assert [config.engine.zero_stage for config in composed] == [1]
    assert capsys.readouterr().err.startswith("error: engine.zero_stage=4 does not exist")


def test_composing_silences_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("train.callbacks.weights_and_biases")
    compose(DEMO)
    logger.warning("W&B is not available")
    assert caplog.messages == ["W&B is not available"]


def test_a_saved_config_comes_back_the_same(tmp_path: Path) -> None:
    config = tiny(tmp_path, optimizer__betas=[0.8, 0.9], micro_batch_size=None)
    save_run_config(config, tmp_path / "new" / "config.yaml")
    assert load_run_config(tmp_path / "new" / "config.yaml") == config
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["config.yaml"]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("{name: x, optimizer: {lrr: 1}}", "there is no config key 'optimizer.lrr'; did you mean 'optimizer.lr'"),
        ("{name: x, seed: many}", "seed: Value 'many' of type 'str' could not be converted to Integer"),
    ],
)
def test_a_config_file_is_checked_like_a_command_line(tmp_path: Path, text: str, complaint: str) -> None:
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(TrainError, match=complaint):
        load_run_config(tmp_path / "config.yaml")


def test_help_shows_examples_and_no_arguments_are_a_mistake(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_app("--help") == (EXIT_OK, [])
    assert run_app() == (EXIT_USER_ERROR, [])
    assert capsys.readouterr().out == "usage\nusage\n"
    assert hydra_app.__doc__


@pytest.mark.parametrize(
    ("changes", "world_size", "expected"),
    [
        ({}, 1, (4, 128)),
        ({}, 8, (4, 16)),
        ({"micro_batch_size": None}, 8, (64, 1)),
        ({}, 3, "use launch.processes=2, or a global_batch_size that is a multiple of 3"),
        ({"micro_batch_size": 5}, 8, "does not divide a rank's 64 rows .* use micro_batch_size=4"),
        ({"micro_batch_size": 500}, 8, "use micro_batch_size=64"),
    ],
)
def test_the_batch_divides_or_the_error_says_what_would(
    changes: dict[str, int | None], world_size: int, expected: tuple[int, int] | str
) -> None:
    config = RunConfig(name="x", **changes)  # type: ignore[arg-type]
    if isinstance(expected, tuple):
        assert rows_per_rank(config, world_size) == expected
    else:
        with pytest.raises(TrainError, match=expected):
            rows_per_rank(config, world_size)


def worker(*arguments: str) -> subprocess.CompletedProcess[str]:
    """`python -m train` as a person starts it."""
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "train", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--config", "absent.yaml"], "there is no config file absent.yaml: "),
        ([DEMO, "init_from=absent"], "init_from=absent is absent: "),
    ],
)
def test_the_worker_reports_mistakes_in_one_line_too(arguments: list[str], complaint: str, tmp_path: Path) -> None:
    extra = [] if arguments[0] == "--config" else [f"run_root={tmp_path}", "wandb.mode=disabled"]
    ended = worker(*arguments, *extra)
    assert ended.returncode == EXIT_USER_ERROR
    assert ended.stderr.startswith(f"error: {complaint}")
    assert ended.stderr.count("\n") == 1


def test_the_recipe_can_be_printed_and_read_back() -> None:
    ended = worker(DEMO, "--cfg", "job", "optimizer.lr=0.25")
    assert ended.returncode == EXIT_OK
    printed = yaml.safe_load(ended.stdout)
    assert printed["optimizer"]["lr"] == 0.25
    assert printed["engine"]["precision"] == Precision.auto.value
    assert printed["optimizer"].keys() == OptimizerConfig.__dataclass_fields__.keys()
